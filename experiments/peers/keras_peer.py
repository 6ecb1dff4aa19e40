"""Keras, in which the digits study was made. Usage: python keras_peer.py SPEC.json (see race.py).

Its networks: Model A of the study (`simple_cnn`), and MobileNetV2 of keras.applications, as such
(`mobilenetv2`) or with the study's dense layers (`mobilenetv2_dense`).
"""

import json
import sys
from pathlib import Path

import keras
import tensorflow as tf
from keras import layers
from pretrained import fill_keras

HALF = layers.Rescaling(1 / 127.5, offset=-1)


def network(spec: dict) -> keras.Model:
    """Build a network; images come as bytes 0 to 255."""
    size, classes = spec["size"], len(spec["classes"])
    inputs = keras.Input((size, size, 3))
    if spec["network"] == "simple_cnn":
        hidden = layers.Rescaling(1 / 255)(inputs)
        for filters in (32, 64, 128):
            hidden = layers.Conv2D(filters, 3, padding="same", activation="elu")(hidden)
            hidden = layers.MaxPooling2D(3)(hidden)
            hidden = layers.BatchNormalization()(hidden)
        hidden = layers.Flatten()(hidden)
    else:
        dense = spec["network"] == "mobilenetv2_dense"
        backbone = keras.applications.MobileNetV2(
            (size, size, 3), include_top=False, weights=None, pooling="max" if dense else "avg"
        )
        if spec["weights"]:
            fill_keras(backbone, spec["weights"])
        hidden = backbone(HALF(inputs))
    if spec["network"] != "mobilenetv2":
        hidden = layers.Dense(256, activation="relu")(hidden)
        hidden = layers.Dropout(0.3)(hidden)
        hidden = layers.Dense(256, activation="relu")(hidden)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(hidden))


def dataset(files: list, size: int, batch: int, seed: int | None) -> tf.data.Dataset:
    """Images and labels as keras.utils.image_dataset_from_directory reads them."""
    names, labels = zip(*files, strict=True)

    def read(name: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.io.decode_image(tf.io.read_file(name), channels=3, expand_animations=False)
        return tf.image.resize(pixels, (size, size)), label

    made = tf.data.Dataset.from_tensor_slices((list(names), list(labels)))
    if seed is not None:
        made = made.shuffle(len(files), seed=seed)
    return made.map(read, tf.data.AUTOTUNE).batch(batch).prefetch(tf.data.AUTOTUNE)


class PrintAccuracy(keras.callbacks.Callback):
    """Prints one line an epoch, as race.py reads them."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Print the accuracy on the judged images."""
        print(f"epoch {epoch + 1} accuracy {logs['val_accuracy']:.6f}", flush=True)


def main() -> None:
    """Train with Adam at 1e-3, or with AdamW at the rate of signlang."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    keras.utils.set_random_seed(spec["seed"])
    model = network(spec)
    optimizer: str | keras.optimizers.Optimizer = "adam"
    if spec["settings"] == "ours":
        steps = -(-len(spec["train"]) // spec["batch"]) * spec["epochs"]
        warm_up = int(0.3 * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            spec["rate"] / 25, steps - warm_up, warmup_target=spec["rate"], warmup_steps=warm_up
        )
        optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        dataset(spec["train"], spec["size"], spec["batch"], spec["seed"]),
        validation_data=dataset(spec["test"], spec["size"], spec["batch"], None),
        epochs=spec["epochs"], verbose=0, callbacks=[PrintAccuracy()],
    )  # fmt: skip


if __name__ == "__main__":
    main()
