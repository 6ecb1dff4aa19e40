"""The published service: a trained SqueezeNet in torch behind plain Flask, image by image.

    python experiments/serving/plain_flask.py --run RUN --port 8001

`bench.py` starts it. It uses nothing of signlang but the weights, so that no optimization of
signlang applies to it. Flask's own server handles each connection in a thread of its own.
"""

import argparse
import io
import json
from pathlib import Path

import torch
from flask import Flask, Response, jsonify, request
from PIL import Image
from torchvision import models, transforms


def application(run: Path) -> Flask:
    """Create the app of a run: POST /predict maps an image to its sign and confidence."""
    app = Flask(__name__)
    classes = json.loads((run / "classes.json").read_text("utf-8"))
    file = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    state, settings = checkpoint["state_dict"], checkpoint["hyper_parameters"]
    network = models.squeezenet1_0(num_classes=len(classes))
    weights = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    network.load_state_dict(weights)
    network.eval()
    prepare = transforms.Compose([
        transforms.Resize((settings["network"]["image_size"],) * 2),
        transforms.ToTensor(),
        transforms.Normalize(settings["mean"], settings["std"]),
    ])  # fmt: skip

    @app.post("/predict")
    def predict() -> Response:
        image = Image.open(io.BytesIO(request.get_data())).convert("RGB")
        with torch.no_grad():
            probabilities = torch.softmax(network(prepare(image)[None]), dim=1)[0]
        best = int(probabilities.argmax())
        return jsonify(label=classes[best], confidence=round(float(probabilities[best]), 6))

    @app.get("/readyz")
    def readyz() -> Response:
        return jsonify(status="ready")

    return app


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Serve a run by plain Flask.")
    parser.add_argument("--run", type=Path, required=True, help="of the training, .../fold=K")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--threads", type=int, help="of torch for one image (torch's default)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    application(arguments.run).run(host="127.0.0.1", port=arguments.port, threaded=True)


if __name__ == "__main__":
    main()
