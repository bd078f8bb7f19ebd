"""Zero points of solved weights as numbers."""

from hf_quant.formats.zero_points import unpack_zero_points


def zero_points_of(solved, scheme):
    """int8 (int16 for 16 bits) of the shape of the scales; None where the scheme is symmetric."""
    if solved.get("zero_point") is None:
        return None
    return unpack_zero_points(solved.get("zero_point"), scheme.bits, solved["scale"].shape)
