"""A small Ray cluster in this process and its children, and on it what the arguments say; see `tests/test_ray.py`.

python tests/ray_driver.py serve NAME model=tiny.onnx replicas=2     until standard input is closed
python tests/ray_driver.py batch SOURCE TARGET --output mask
"""

from __future__ import annotations

import socket
import sys

import ray


def serve(name: str, *arguments: str) -> None:
    from ray import serve

    from deploy.ray_serve import build

    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(dict(argument.split("=", 1) for argument in arguments)), name=name)
    print(f"listens on http://127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    serve.shutdown()


def main() -> None:
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000)
    try:
        if sys.argv[1] == "serve":
            serve(*sys.argv[2:])
        else:
            from deploy.ray_batch import main

            main(sys.argv[2:])
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
