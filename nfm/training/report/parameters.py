"""List the layers of a Keras model with shapes and parameters, for the summary and the report."""

from typing import Any, NamedTuple

import keras
import numpy as np


def count_parameters(model: keras.Model) -> dict[str, int]:
    """Count the parameters of each layer, by its name, without the tables' padding rows, which are not published."""
    padding = {name: model.get_layer(name).width for name in ("embedding", "linear")}
    return {layer.name: layer.count_params() - padding.get(layer.name, 0) for layer in model.layers}


class Layer(NamedTuple):
    """A layer of the network."""

    name: str
    kind: str
    shape: str
    parameters: int
    trainable: int


def list_layers(model: keras.Model) -> list[Layer]:
    """List the layers in this order: inputs, interactions, linear part, sum."""
    operations, parameters = list(model.operations), count_parameters(model)
    last = operations[-1]

    def order(operation: Any) -> int:
        if operation is last or isinstance(operation, keras.layers.InputLayer):
            return 3 if operation is last else 0
        interactions = isinstance(operation, keras.layers.Layer) and "linear" not in operation.name
        return 1 if interactions else 2

    listed = []
    for operation in sorted(operations, key=order):
        is_layer = isinstance(operation, keras.layers.Layer)
        output = operation.output
        weights = operation.trainable_weights if is_layer else []
        trained = sum(int(np.prod(weight.shape)) for weight in weights)
        all_trained = is_layer and not operation.non_trainable_weights
        shape = (output[0] if isinstance(output, list | tuple) else output).shape
        if shape[-1] != 0:  # an input without columns is left out
            listed.append(
                Layer(
                    # Keras names a sum by the number of models in the process.
                    operation.name if is_layer else ("score" if operation is last else "linear_sum"),
                    type(operation).__name__,
                    " × ".join(["B", *("…" if size is None else f"{size:,}" for size in shape[1:])]),
                    parameters.get(operation.name, 0),
                    parameters.get(operation.name, 0) if all_trained else trained,
                )
            )
    return listed
