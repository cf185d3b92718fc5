"""The parts that differ between two otherwise equal pages."""

import re

TOKEN = re.compile(rb'name="csrfmiddlewaretoken" value="[^"]*"|data-now="[0-9]*"')
