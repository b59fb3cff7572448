"""Writes the metrics of runs to what people already use: TensorBoard, Weights & Biases, MLflow, Trackio."""
