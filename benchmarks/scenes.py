"""Measures how fast the built-in scenes are made: `python -m benchmarks.scenes`.

Prints one line of JSON.
"""

import argparse
import json
import os
import time

from data_pipeline.sources.scenes.data import ScenesData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=4096, help="scenes to make")
    parser.add_argument("--image-size", type=int, default=64, help="height and width in pixels")
    arguments = parser.parse_args()

    source = ScenesData(num_train=arguments.scenes, image_size=arguments.image_size).open("train")
    start = time.perf_counter()
    source.__getitems__([0])
    compiled = time.perf_counter()
    for first in range(0, arguments.scenes, 1024):
        source.__getitems__(range(first, min(first + 1024, arguments.scenes)))
    seconds = time.perf_counter() - compiled
    result = {
        "benchmark": "scenes",
        "scenes_per_second": round(arguments.scenes / seconds, 1),
        "scenes": arguments.scenes,
        "image_size": arguments.image_size,
        "cores": len(os.sched_getaffinity(0)),
        "seconds_to_compile": round(compiled - start, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
