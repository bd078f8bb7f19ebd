"""Parts of a quantized model that one native call computes, where several modules would make a call each.

Names, parameters and results stay; what is fused is found by structure and proved by running both ways.
"""
