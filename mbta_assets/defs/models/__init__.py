"""Group `models`: gradient-boosted trees, and the teacher network with the smaller networks made from it."""
