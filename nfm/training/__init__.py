"""The training job: TensorFlow reads the dataset and writes the artifact."""
