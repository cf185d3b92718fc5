"""Texts that no field expects."""

LONG = "x" * 10_000
NUL = "a\x00b"
ODD = {
    "nothing": "",
    "blanks": " \t ",
    "long": LONG,
    "NUL": NUL,
    "line ends": "a\r\nb",
    "emoji": "\N{ROCKET}" * 40,
    "right to left": "\u202eabc\u2066",
    "separators": "a\u2028b\u0085c",
    "number": "-1",
    "not a number": "NaN",
    "list": "[]",
    "markup": "<img src=x onerror=alert(1)>",
    "template": "{{ 7|add:7 }}{% now %}",
    "percent": "%00%ff%s%(x)s",
    "sql": "' OR 1=1 --",
    "foreign digits": "\N{ARABIC-INDIC DIGIT ONE}",
    "a uuid": "00000000-0000-4000-8000-000000000000",
}
