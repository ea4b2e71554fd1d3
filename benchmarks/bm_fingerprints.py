"""Fingerprints: images per second from JPEG files, and the search at full size, beside imagededup (`pip install .[bench]`).

`python benchmarks/bm_fingerprints.py [--images FOLDER] [--corpus 1000000] [--evaluation 20000] [--json FILE]`

Each part runs in a process of its own, on one core, so that its peak memory is its own.

 - images: CPU time of fingerprints of the JPEG files in FOLDER (default: val2017 below DETECTRON2_DATASETS).
 - search: --corpus random fingerprints of 64 bits against --evaluation, all pairs within 8 bits; some pairs are planted, and the
   answers of a part of the queries are compared with brute force.
 - candidates: the rows of whole images, with bits that depend on one another as those of the photographs do: --evaluation images
   indexed, corpus images asked, frames and regions, votes counted.
 - peer: imagededup's search at a size that it can manage, and ours of the same fingerprints.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from benchmarks.planted import decoded
from eva02_det.contamination.candidates import CandidateSearch
from eva02_det.contamination.fingerprints import MAX_BITS, corpus_rows, evaluation_rows, hashes, places, small_image
from eva02_det.contamination.search import FingerprintIndex

Bytes = NDArray[np.uint8]
Result = dict[str, float]
MIB = 2**20
PLANTED, CHECKED = 1000, 200
CORPUS_AT_ONCE = 1000  # images whose rows are asked together


def random_hashes(count: int, seed: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, 8), dtype=np.uint8)


def planted_hashes(args: argparse.Namespace, corpus: int) -> tuple[Bytes, Bytes]:
    """Fingerprints of the evaluation images and of the corpus; some of the latter are the former with 0-12 bits turned."""
    rows, queries = random_hashes(args.evaluation, 0), random_hashes(corpus, 1)
    rng = np.random.default_rng(2)
    bits = np.unpackbits(rows[rng.integers(0, len(rows), PLANTED)], axis=1)
    for row in bits:
        row[rng.permutation(64)[: rng.integers(13)]] ^= 1
    queries[:PLANTED] = np.packbits(bits, axis=1)
    return rows, queries


def search(args: argparse.Namespace) -> Result:
    rows, queries = planted_hashes(args, args.corpus)
    before, start = peak_mib(), time.perf_counter()
    index = FingerprintIndex(rows, MAX_BITS)
    found = index.search(queries)
    seconds = time.perf_counter() - start
    unlike = (np.unpackbits(queries[:CHECKED], axis=1)[:, None] != np.unpackbits(rows, axis=1)[None]).sum(axis=2)
    pairs = np.stack([found.query, found.row], axis=1)[found.query < CHECKED]
    assert np.array_equal(pairs, np.argwhere(unlike <= MAX_BITS)), "the search is not exact"
    result: Result = {"corpus": len(queries), "evaluation": len(rows), "pairs": len(found.row), "seconds": seconds}
    return result | {"peak_mib": peak_mib(), "added_mib": peak_mib() - before}


def images_per_second(make: Callable[[Path], Any], files: list[Path], passes: int = 3) -> float:
    """Of the fastest pass, in CPU time."""
    make(files[0])
    rates = []
    for _ in range(passes):
        start = time.process_time()
        for path in files:
            make(path)
        rates.append(len(files) / (time.process_time() - start))
    return max(rates)


def images(args: argparse.Namespace) -> Result:
    files = sorted(args.images.glob("*.jpg"))
    ways: dict[str, Callable[[Path], Any]] = {
        "decoding, small": lambda path: small_image(path.read_bytes()),
        "decoding, whole": lambda path: decoded(path.read_bytes()),
        "corpus rows, decoded small": lambda path: corpus_rows(small_image(path.read_bytes())),
        "corpus rows, decoded whole": lambda path: corpus_rows(decoded(path.read_bytes())),
        "evaluation rows, decoded whole": lambda path: evaluation_rows(decoded(path.read_bytes())),
    }
    if importlib.util.find_spec("imagededup"):
        from imagededup.methods import PHash

        ways["imagededup, PHash"] = PHash(verbose=False).encode_image
    return {name: images_per_second(make, files) for name, make in ways.items()}


def like(rows: Bytes, count: int, seed: int) -> Bytes:
    """Random rows [count, BYTES] whose 64 bits depend on one another, pair by pair, as those of `rows` do; places at random."""
    bits = np.unpackbits(hashes(rows), axis=1).astype(np.float64)
    share = bits.mean(axis=0).clip(0.02, 0.98)
    together = np.sin(np.pi / 2 * np.corrcoef(bits + np.random.default_rng(0).normal(0, 1e-3, bits.shape), rowvar=False))
    values, vectors = np.linalg.eigh(together)
    factor = (vectors * np.sqrt(values.clip(1e-6))).astype(np.float32)
    limit = np.quantile(np.random.default_rng(1).normal(size=1 << 16), 1 - share).astype(np.float32)
    rng, parts = np.random.default_rng(seed), []
    for begin in range(0, count, 1 << 16):
        waves = rng.standard_normal((min(1 << 16, count - begin), 64), dtype=np.float32) @ factor.T
        drawn = rows[rng.integers(0, len(rows), len(waves))].copy()  # kind, pose and place of some row
        drawn[:, :8] = np.packbits(waves > limit, axis=1)
        drawn[:, 8:16][places(drawn).framed] = rng.integers(0, 256, (int(places(drawn).framed.sum()), 8), dtype=np.uint8)
        parts.append(drawn)
    return np.concatenate(parts)


def candidates(args: argparse.Namespace) -> Result:
    pictures = [decoded(path.read_bytes()) for path in sorted(args.images.glob("*.jpg"))]
    real, asked = [evaluation_rows(picture)[0] for picture in pictures], [corpus_rows(picture) for picture in pictures]
    each, of_corpus = (round(sum(map(len, rows)) / len(rows)) for rows in (real, asked))
    rows = like(np.concatenate(real), args.evaluation * each, 3)
    queries = like(np.concatenate(asked), CORPUS_AT_ONCE * of_corpus, 4)
    before, start = peak_mib(), time.perf_counter()
    index = CandidateSearch(rows, np.repeat(np.arange(args.evaluation), each))
    built = time.perf_counter() - start
    start = time.process_time()
    found = index.search(queries, np.repeat(np.arange(CORPUS_AT_ONCE), of_corpus))
    seconds = time.process_time() - start
    return {"evaluation images": args.evaluation, "rows of one": each, "rows of a corpus image": of_corpus} | {
        "seconds to index": built,
        "corpus images per second": CORPUS_AT_ONCE / seconds,
        "false candidates per corpus image": len(found.corpus) / CORPUS_AT_ONCE,
        "peak_mib": peak_mib(),
        "added_mib": peak_mib() - before,
    }


def peer(args: argparse.Namespace) -> Result:
    """imagededup keeps hexadecimal strings by name, and compares all with all."""
    if not importlib.util.find_spec("imagededup"):
        return {}
    from imagededup.handlers.search.retrieval import HashEval
    from imagededup.methods import PHash

    rows, queries = planted_hashes(args, args.peer_corpus)
    start = time.perf_counter()
    ours = FingerprintIndex(rows, MAX_BITS).search(queries)
    seconds = time.perf_counter() - start
    result: Result = {"corpus": len(queries), "evaluation": len(rows), "ours_s": seconds}
    test = {f"e{n}": row.tobytes().hex() for n, row in enumerate(rows)}
    asked = {f"c{n}": row.tobytes().hex() for n, row in enumerate(queries)}
    for method in ("brute_force_cython", "bktree"):
        if method == "bktree":  # in Python: a part of the queries is enough
            asked = dict(list(asked.items())[: args.peer_corpus // 100])
        start = time.perf_counter()
        found = HashEval(
            test, asked, PHash.hamming_distance, verbose=False, threshold=MAX_BITS, search_method=method, num_dist_workers=1
        ).retrieve_results(scores=True)
        seconds = (time.perf_counter() - start) * len(queries) / len(asked)
        same = sum(map(len, found.values())) == int((ours.query < len(asked)).sum())
        assert same, f"{method} finds other pairs"
        result |= {f"{method}_s": seconds, f"{method}_times_ours": seconds / result["ours_s"]}
    return result


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS = {"images": images, "search": search, "candidates": candidates, "peer": peer}


def apart(name: str, args: argparse.Namespace) -> Result:
    """A part in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(PARTS[name], args).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "coco" / "val2017"
    parser.add_argument("--images", type=Path, default=default, metavar="FOLDER")
    parser.add_argument("--corpus", type=int, default=1_000_000)
    parser.add_argument("--evaluation", type=int, default=20_000)
    parser.add_argument("--peer-corpus", type=int, default=5_000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", help="not used: all of it runs on the CPU")
    args = parser.parse_args()
    if not any(args.images.glob("*.jpg")):
        sys.exit(f"no photographs (*.jpg) in {args.images}; set DETECTRON2_DATASETS, or pass --images FOLDER")
    results = {}
    for name in args.parts:
        results[name] = result = apart(name, args)
        print(name if result else f"{name}: imagededup is not installed")
        for key, value in result.items():
            print(f"  {key:36} {value:14,.3f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
