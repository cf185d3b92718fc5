"""Pages name browsers in words; the whole user agent is in the title."""

import pytest
from django.test import Client

from taskruns.models import User
from taskruns.pages.browsers import browser_of
from tests.clients import ClientOf, sign_in

WINDOWS, MAC, LINUX = "(Windows NT 10.0; Win64; x64)", "(Macintosh; Intel Mac OS X 10_15_7)", "(X11; Linux x86_64)"
PIXEL, PHONE = "(Linux; Android 14; Pixel 8)", "(iPhone; CPU iPhone OS 17_5 like Mac OS X)"
CHROME, SAFARI = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0", "Safari/537.36"


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("Mozilla/5.0 (Windows NT 10.0; rv:130.0) Gecko/20100101 Firefox/130.0", "Firefox on Windows"),
        ("Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Android 14; Mobile; rv:130.0) Gecko/130.0 Firefox/130.0", "Firefox on Android"),
        (f"Mozilla/5.0 {PHONE} AppleWebKit/605.1.15 FxiOS/130.0 Mobile/15E148 Safari/605.1.15", "Firefox on iOS"),
        (f"Mozilla/5.0 {MAC} {CHROME} {SAFARI}", "Chrome on macOS"),
        (f"Mozilla/5.0 {PIXEL} {CHROME} Mobile {SAFARI}", "Chrome on Android"),
        (f"Mozilla/5.0 {LINUX} {CHROME.replace('Chrome', 'HeadlessChrome')} {SAFARI}", "Chrome on Linux"),
        (f"Mozilla/5.0 {PHONE} AppleWebKit/605.1.15 CriOS/128.0 Mobile/15E148 Safari/604.1", "Chrome on iOS"),
        (f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {CHROME} {SAFARI}", "Chrome"),
        (f"Mozilla/5.0 {WINDOWS} {CHROME} {SAFARI} Edg/128.0.0.0", "Edge on Windows"),
        (f"Mozilla/5.0 {PIXEL} {CHROME} Mobile {SAFARI} EdgA/128.0.0.0", "Edge on Android"),
        (f"Mozilla/5.0 {LINUX} {CHROME} {SAFARI} OPR/113.0.0.0", "Opera on Linux"),
        (f"Mozilla/5.0 {MAC} AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15", "Safari on macOS"),
        (f"Mozilla/5.0 {PHONE} AppleWebKit/605.1.15 Version/17.5 Mobile/15E148 Safari/604.1", "Safari on iOS"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("MyFirefoxTool on Windows", "MyFirefoxTool on Windows"),
        ("", ""),
    ],
)
def test_a_browser_is_named_with_its_system(user_agent: str, name: str):
    assert browser_of(user_agent) == name


def test_sessions_and_sign_ins_name_the_browser(vera: User, adam: User, client_of: ClientOf):
    agent = f"Mozilla/5.0 {WINDOWS} {CHROME} {SAFARI} Edg/128.0.0.0"
    theirs = Client(headers={"User-Agent": agent})
    sign_in(theirs, vera.email)
    for client, url in ((theirs, "/accounts/sessions/"), (client_of(adam), f"/people/{vera.pk}/")):
        text = client.get(url).content.decode()
        assert f'title="{agent}"><bdi>Edge on Windows</bdi></span>' in text
        assert text.count(agent) == 1, "only in the title"
