"""A small real model: logistic regression on handwritten digits, as the ONNX file that a search would leave."""

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sqlalchemy.orm import Session

from ingest.preprocess import Preprocessing
from store.tables import Model
from tests.support.pictures import some_digits
from tests.support.rows import a_model

SIDE = 28
LABELS = [str(label) for label in range(10)]


@cache
def digit_reader(side: int = SIDE) -> bytes:
    """Learnt from 200 pictures of each digit; about nine of ten others are read rightly. side: 28, or a multiple."""
    pixels, labels = some_digits(per_class=200)
    features = pixels.reshape(len(pixels), -1) / 255
    fitted = LogisticRegression(max_iter=60, C=0.05, tol=1e-2).fit(features, labels)
    by = side // SIDE
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels_first"], ["small"], kernel_shape=[by, by], strides=[by, by]),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    weights = {"weights": (fitted.coef_.T / 255).astype(np.float32), "bias": fitted.intercept_.astype(np.float32)}
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(LABELS)])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def a_digit_reader(session: Session, name: str = "reader", side: int = SIDE, labels: list[str] = LABELS) -> Model:
    """The next version of a model that reads digits."""
    return a_model(session, name, digit_reader(side), labels, Preprocessing(side, 1).to_json())
