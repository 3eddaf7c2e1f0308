"""Train models: data sets, XGBoost, networks, distillation, pruning, quantization, tuning on Ray."""
