"""The resize engine: two compiled passes over pixels, down their rows and along their columns."""

# bytes from one pixel to the next for which there is machine code
PACKED = (3, 4)
