"""Channels are told when a token expires soon, has expired, or stopped because of its maker: each once."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from taskruns import jobs
from taskruns.models import Delivery, Membership, Team, User
from taskruns.models.channels import TEST
from taskruns.pages.channels.messages import message_of
from taskruns.services.channels import match
from taskruns.services.channels.episodes import notice_time
from tests.channels.scene import HOOK, add_channel
from tests.factories import make_token

pytestmark = pytest.mark.django_db


def told() -> list[str]:
    """The titles of the messages so far, after a look at the log and at the time."""
    jobs.look_after_tokens()
    notice_time()
    match()
    rows = Delivery.objects.exclude(event=TEST).select_related("team", "channel", "run").order_by("created_at")
    return [message_of(row).title for row in rows]


def test_an_end_is_told_7_days_and_1_day_before(team: Team):
    add_channel(team, HOOK, kind="webhook", events=("token.expiring", "token.expire"))
    start = timezone.now()
    make_token(team, expires_at=start + timedelta(days=8))
    with time_machine.travel(start, tick=False) as clock:
        assert told() == []
        clock.shift(timedelta(days=1, hours=1))
        assert told() == told() == ["The token Airflow expires soon"]
        clock.shift(timedelta(days=6))
        assert told() == told() == ["The token Airflow expires soon"] * 2
        clock.shift(timedelta(days=1))
        assert told() == told() == ["The token Airflow expires soon"] * 2 + ["The token Airflow expired"]
    facts = dict(message_of(Delivery.objects.filter(event="token.expiring")[0]).facts)
    assert facts["Ends"].endswith(" UTC")
    assert message_of(Delivery.objects.all()[0]).link.url.endswith("/teams/ops-north/tokens/")


def test_a_role_from_groups_is_told_before_it_ends_and_when_it_has(team: Team, mona: User, settings: Any):
    add_channel(team, HOOK, kind="webhook", events=("token.expiring", "token.stopped"))
    make_token(team, maker=mona)
    start = timezone.now()
    Membership.objects.filter(user=mona).update(by_groups=True)
    User.objects.filter(pk=mona.pk).update(sso_signed_in_at=start)
    with time_machine.travel(start, tick=False) as clock:
        assert told() == []
        clock.shift(timedelta(days=settings.SESSION_MAX_DAYS) - timedelta(hours=23))
        assert told() == told() == ["The token Airflow expires soon"]
        clock.shift(timedelta(days=1))
        assert told() == told() == ["The token Airflow expires soon", "The token Airflow no longer works"]


def test_a_token_that_was_replaced_is_not_announced(team: Team):
    add_channel(team, HOOK, kind="webhook", events=("token.expiring",))
    make_token(team, expires_at=timezone.now() + timedelta(hours=2), replaced_at=timezone.now())
    assert told() == []


def test_a_maker_who_left_is_told_once_each_time(team: Team, oli: User):
    add_channel(team, HOOK, kind="webhook", events=("token.stopped",))
    make_token(team, maker=oli)
    assert told() == []
    Membership.objects.filter(user=oli).delete()
    assert told() == told() == ["The token Airflow no longer works"]
    Membership.objects.create(team=team, user=oli, role="operator")
    assert len(told()) == 1
    Membership.objects.filter(user=oli).update(role="viewer")
    assert len(told()) == 2
