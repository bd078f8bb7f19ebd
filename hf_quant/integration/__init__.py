"""The only code that knows Transformers' quantizer interface, and PEFT."""
