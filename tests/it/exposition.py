"""Prints what prometheus_client reads from standard input, as JSON lines: for each sample the type
of its family, name, labels, value, and the labels of its exemplar. The argument is the format."""

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
        exemplar = sample.exemplar.labels if sample.exemplar else None
        print(json.dumps([family.type, sample.name, sample.labels, repr(sample.value), exemplar]))
