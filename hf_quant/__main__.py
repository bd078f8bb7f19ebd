"""``python -m hf_quant`` is ``hf-quant``, for launchers that take a module."""

from hf_quant.cli.main import main

if __name__ == "__main__":
    main()
