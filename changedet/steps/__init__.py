"""The steps of the pipeline: one module a step, NumPy kernels on top, the labelled function below."""
