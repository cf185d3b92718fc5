"""A key may only be sent to an address that equals an allowed one."""

import pytest

from taskruns.arize.endpoints import REGIONS, EndpointRefused, check_endpoint, check_extra, normalise

EXTRA = ["http://127.0.0.1:9000/", "https://Arize-App.example.com"]
ARIZE = "https://api.arize.com"


def test_the_regions_are_the_global_one_and_four_others():
    assert [region.url for region in REGIONS] == [
        ARIZE,
        "https://api.us-east-1b.arize.com",
        "https://api.us-central-1a.arize.com",
        "https://api.ca-central-1a.arize.com",
        "https://api.eu-west-1a.arize.com",
    ]
    assert len({region.label for region in REGIONS}) == len(REGIONS)


@pytest.mark.parametrize("region", REGIONS)
def test_each_arize_region_is_allowed(region):
    assert check_endpoint(region.url, extra=[]) == region.url


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("  https://api.arize.com/  ", ARIZE),
        ("HTTPS://API.Arize.COM", ARIZE),
        ("https://api.arize.com:443", ARIZE),
        ("https://api.arize.com:443/", ARIZE),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("https://arize-app.example.com/", "https://arize-app.example.com"),
    ],
)
def test_spellings_of_an_allowed_address_are_normalised(typed, address):
    assert check_endpoint(typed, extra=EXTRA) == normalise(typed) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.arize.com",
        "//api.arize.com",
        "http://api.arize.com",
        "ftp://api.arize.com",
        "https://api.arize.com:8443",
        "https://api.arize.com:",
        "https://api.arize.com:0443",
        "https://api.arize.com:80",
        "https://api.arize.com//",
        "https://api.arize.com/v2",
        "https://api.arize.com/?x",
        "https://api.arize.com?x=1",
        "https://api.arize.com#x",
        "https://user@api.arize.com",
        "https://user:word@api.arize.com",
        "https://api.arize.com@evil.example",
        "https://api.arize.com%40evil.example",
        "https://api.arize.com\\@evil.example",
        "https://evil.example\\.api.arize.com",
        "https://api.arize.com.evil.example",
        "https://evilapi.arize.com",
        "https://app.arize.com",
        "https://api.arize.com.",
        "https://api.arize.com.:443",
        "https://api.arize.com\n",
        "https://api.arize.com\0",
        "https://api.ar\tize.com",
        "https://api.arize.com\r\nHost: evil.example",
        "https://api.ar\u0131ze.com",
        "https://api\u3002arize.com",
        "https://\uff41pi.arize.com",
        "https://api.arize.com\u200b",
        "\u00a0https://api.arize.com",
        "https://169.254.169.254",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]",
        "http://[::1]:9000",
        "http://[::ffff:127.0.0.1]:9000",
        "http://2130706433:9000",
        "http://0x7f000001:9000",
        "http://0x7f.1:9000",
        "http://127.1:9000",
        "http://127.0.0.1:9001",
        "http://127.0.0.1",
        "https://127.0.0.1:9000",
        "http://localhost:9000",
        "http://arize-app.example.com",
    ],
)
def test_other_addresses_are_refused_and_not_repeated(url):
    with pytest.raises(EndpointRefused) as refused:
        check_endpoint(url, extra=EXTRA)
    assert str(refused.value).endswith("Choose a region from the list.")
    assert "evil" not in str(refused.value)


def test_extra_endpoint_must_be_configured():
    assert check_endpoint(EXTRA[0], extra=EXTRA) == "http://127.0.0.1:9000"
    with pytest.raises(EndpointRefused):
        check_endpoint(EXTRA[0], extra=[])


@pytest.mark.parametrize(
    ("configured", "address"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://LOCALHOST:80/", "http://localhost"),
        ("https://fake_arize:8443", "https://fake_arize:8443"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_extra_endpoint_may_use_http_and_a_port(configured, address):
    assert check_extra(configured) == address
    assert check_endpoint(configured, extra=[configured]) == address


@pytest.mark.parametrize(
    "configured",
    [
        "",
        "arize.example.com",
        "ftp://arize.example.com",
        "https://",
        "https://arize.example.com/api",
        "https://arize.example.com?x",
        "https://user:word@arize.example.com",
        "https://arize.example.com:65536",
        "https://arize.example.com:port",
        "https://arize.example.com.",
        "https://arize..example.com",
        "https://-arize.example.com",
        "https://" + "a" * 64 + ".com",
        "https://" + "a." * 130 + "com",
        "http://[::1",
        "http://[:::1]",
        "https://ariz\u00e9.example.com",
    ],
)
def test_malformed_extra_endpoint_is_refused(configured):
    with pytest.raises(EndpointRefused, match="must be http:// or https://"):
        check_extra(configured)
