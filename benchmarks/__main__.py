"""`python -m benchmarks [NAMES...] [--quick] [--json]`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from benchmarks import (
    cached_hit,
    folder,
    in_flight,
    limits,
    maps,
    routing,
    single_flight,
    soak,
    streaming,
    throughput,
    zipf,
)
from benchmarks.harness import BenchmarkError, Stage, stage
from benchmarks.options import Options
from benchmarks.queues import first_get, round_trip
from benchmarks.queues import throughput as queue_throughput
from benchmarks.report import Report, machine_line, write
from kagura_tasks.errors import KaguraTasksError
from kagura_tasks.settings import ENV_PREFIX

BENCHMARKS: Final[dict[str, Callable[[Options, Stage], Report]]] = {
    "cached_hit": cached_hit.run,
    "in_flight": in_flight.run,
    "throughput": throughput.run,
    "single_flight": single_flight.run,
    "zipf": zipf.run,
    "streaming": streaming.run,
    "map": maps.run,
    "folder": folder.run,
    "routing": routing.run,
    "limits": limits.run,
    "soak": soak.run,
    "queue_throughput": queue_throughput.run,
    "queue_round_trip": round_trip.run,
    "queue_first_get": first_get.run,
}


def main() -> int:
    """Run what is asked for, one after the other, and print each report as it comes."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: everything that was started stops
    _forget_settings()
    options = Options(arguments.quick, arguments.rounds)
    found: list[dict[str, object]] = []
    try:
        machine = machine_line()
        for report in _reports(arguments.names or list(BENCHMARKS), options):
            found.append(report.as_json(machine))
            if not arguments.json:
                print(report.text(machine), flush=True)
            if not options.quick:
                write(report, machine)
            machine = machine_line()
    except (BenchmarkError, KaguraTasksError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    if arguments.json:
        print(json.dumps(found, indent=2))
    return 0


def _reports(names: Sequence[str], options: Options) -> Iterator[Report]:
    """Each on a stage of its own, with fresh workers. A quick run has one stage, whose workers all share."""
    for group in [names] if options.quick else [[name] for name in names]:
        with stage() as made:
            for name in group:
                print(f"{name} ...", file=sys.stderr, flush=True)
                yield BENCHMARKS[name](options, made)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="only show that it runs; writes no results")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds of those with workers (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown or arguments.rounds < 1:
        parser.error(f"no benchmark {', '.join(unknown)}" if unknown else "--rounds: 1 or more")
    return arguments


def _forget_settings() -> None:
    """Settings of whoever runs this must not decide what is measured."""
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX) and not name.endswith("_REDIS_SERVER"):
            del os.environ[name]


if __name__ == "__main__":
    sys.exit(main())
