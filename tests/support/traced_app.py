"""A team's app whose workers tell OpenTelemetry, which writes lines of JSON to files."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from workers.main import app

__all__ = ["app"]

# They stay open for as long as the process lives.
_spans, _metrics = (Path(os.environ["TRACES"], name).open("a") for name in ("spans", "metrics"))  # noqa: SIM115

_tracing = TracerProvider()
# Once an hour: what is there earlier was flushed.
_tracing.add_span_processor(
    BatchSpanProcessor(
        ConsoleSpanExporter(out=_spans, formatter=lambda span: f"{span.to_json(indent=None)}\n"),
        schedule_delay_millis=3_600_000,
    )
)
trace.set_tracer_provider(_tracing)

_exporter = ConsoleMetricExporter(out=_metrics, formatter=lambda data: f"{data.to_json(indent=None)}\n")
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(_exporter, export_interval_millis=3_600_000)]))
