"""Prints what prometheus_client reads from standard input, as JSON lines: for each sample the type
of its family, name, labels, value, the labels, value and time of its exemplar, and all of it but
the exemplar as a line again. The argument is the format."""

import json
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

read = {
    "text": parser.text_string_to_metric_families,
    "openmetrics": openmetrics_parser.text_string_to_metric_families,
}[sys.argv[1]]

for family in read(sys.stdin.read()):
    for sample in family.samples:
        of = sample.exemplar
        exemplar = [of.labels, of.value, float(of.timestamp)] if of else None
        labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sample.labels.items())
        line = sample.name + ("{" + labels + "}" if labels else "") + f" {sample.value!r}"
        value = repr(sample.value)
        print(json.dumps([family.type, sample.name, sample.labels, value, exemplar, line]))
