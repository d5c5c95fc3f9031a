"""Makes lloyd_max.json: the levels of least squared error that kmeans1d finds, which is exact.

    pip install kmeans1d==0.5.0
    python make_lloyd_max.py

Values are signed squares of an even distribution (a linear congruential generator) on a grid of 1/16384, so that
no two of them share one of Sluice's bins. `weights` are those of 31 columns, whole numbers: kmeans1d knows no weights, so
for these a value is there as many times.
"""

import json
import math

import kmeans1d

COUNT, COLUMNS = 31 * 40, 31


def draw(seed):
    state = seed
    while True:
        state = (state * 1664525 + 1013904223) % 2**32
        yield state / 2**32


def values(seed):
    numbers = draw(seed)
    places = (next(numbers) - 0.5 for _ in range(COUNT))
    return [round(x * abs(x) * 16384) / 16384 for x in places]


cases = []
for seed in (1, 2):
    numbers = draw(100 + seed)
    columns = [math.floor(1 + 15 * next(numbers)) for _ in range(COLUMNS)]
    x = values(seed)
    repeated = [value for i, value in enumerate(x) for _ in range(columns[i % COLUMNS])]
    for bits in (2, 3, 4):
        cases.append({
            "seed": seed,
            "count": 2**bits,
            "weights": columns,
            "levels": kmeans1d.cluster(x, 2**bits).centroids,
            "weighted": kmeans1d.cluster(repeated, 2**bits).centroids,
        })
with open("lloyd_max.json", "w") as file:
    json.dump({"values": COUNT, "cases": cases}, file, indent=1)
    file.write("\n")
