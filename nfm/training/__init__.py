"""The training job: TensorFlow reads the dataset and writes the artifact."""

import os

# Both are read when TensorFlow and Keras are first imported, which the modules of this package do. What is an error to
# TensorFlow's own log is that a machine has no graphics card; errors that concern a training are raised.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
