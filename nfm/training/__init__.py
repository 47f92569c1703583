"""The train job: fit a Neural Factorization Machine to the dataset with TensorFlow, and write the model."""

import os

# TensorFlow and Keras read both variables when they are first imported, which the modules of this package do. Level 3
# silences TensorFlow's own log, where a missing GPU is an error; errors of a training are raised as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
