"""Group `models`: gradient-boosted trees, and the teacher network with the smaller networks made from it.

Each module defines one asset of the same name; all of them are loaded.
"""

MODELS = ("xgboost_model", "dnn_teacher", "pruned_teacher", "distilled_student", "quantized_student")
"""The assets that the leaderboard scores."""
