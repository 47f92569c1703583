"""The scoring job: Spark and numpy, no TensorFlow."""
