"""The pages of channels, own notices, and what other pages say about silent channels."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from taskruns import jobs
from taskruns.models import (
    Channel,
    Delivery,
    DeliveryState,
    Membership,
    Rule,
    Run,
    RunNotice,
    SavedView,
    Status,
    Team,
    User,
)
from taskruns.models.channels import SUGGESTED
from taskruns.services import channels
from taskruns.services.channels.addresses import destination_of
from taskruns.services.runs.observations import record_observation
from tests.actions import A_RULE
from tests.channels.receivers import MailBox, Receiver, status
from tests.channels.scene import BY, HOOK, add_channel
from tests.channels.worker import send_due, work_off
from tests.clients import ClientOf
from tests.runs.readings import reading

pytestmark = pytest.mark.django_db
CHANNELS = "/teams/ops-north/channels/"
NEW = {"name": "On call", "kind": "webhook", "address": HOOK} | A_RULE


def text_of(answer: Any) -> str:
    return " ".join(answer.content.decode().split())


def page_of(channel: Channel) -> str:
    return f"{CHANNELS}{channel.pk}/"


def test_a_manager_adds_a_channel_and_sees_its_secret_once(mona: User, client_of: ClientOf):
    answer = client_of(mona).post(f"{CHANNELS}new/", NEW)
    channel = Channel.objects.get()
    assert destination_of(channel).signing in text_of(answer)
    assert "no-store" in answer["Cache-Control"]
    page = text_of(client_of(mona).get(page_of(channel)))
    assert "whsec_" not in page
    assert "very-secret" not in page
    assert "A run failed" in page


def test_the_form_offers_the_suggested_events_and_no_mail_without_a_server(mona: User, client_of: ClientOf):
    page = text_of(client_of(mona).get(f"{CHANNELS}new/"))
    assert page.count("checked") == len(SUGGESTED)
    assert 'value="email"' not in page
    assert 'value="slack"' in page


def test_the_list_names_the_first_events_of_a_rule_and_counts_the_rest(mona: User, client_of: ClientOf):
    client_of(mona).post(f"{CHANNELS}new/", NEW | {"events": [event.value for event in SUGGESTED]})
    page = text_of(client_of(mona).get(CHANNELS))
    assert f"and {len(SUGGESTED) - 3} more" in page


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"address": "http://alerts.example.com/very-secret"}, "must begin with https"),
        ({"address": "https://10.0.0.1/very-secret"}, "private"),
        ({"address": "x" * 10_000}, "too long"),
        ({"address": "x" * 30_000}, "at most 20000"),
        ({"kind": "telegram"}, "Select a valid choice"),
        ({"name": HOOK}, "not like a name"),
        ({"name": "x" * 10_000}, "too long"),
        ({"events": []}, "required"),
        ({"events": ["run.faild"]}, "Select a valid choice"),
        ({"query": "stauts=failed"}, "no filter"),
        ({"query": HOOK}, "its own field"),
        ({"query": "x" * 10_000}, "too long"),
        ({"quiet_minutes": "soon"}, "whole number"),
        ({"min_error_share": "101"}, "less than or equal to 100"),
    ],
)
def test_a_mistake_gets_a_sentence_and_keeps_the_rest(
    wrong: dict[str, Any], says: str, mona: User, client_of: ClientOf
):
    answer = client_of(mona).post(f"{CHANNELS}new/", NEW | wrong)
    page = text_of(answer)
    assert answer.status_code == 422
    assert says in page
    assert "very-secret" not in page
    assert not Channel.objects.exists()
    if "name" not in wrong:
        assert 'value="On call"' in page


def test_a_saved_view_becomes_the_filter(team: Team, mona: User, client_of: ClientOf):
    view = SavedView.objects.create(team=team, owner=mona, name="Prod", query="q=prod")
    client_of(mona).post(f"{CHANNELS}new/", NEW | {"view": str(view.pk), "query": ""})
    assert Rule.objects.get().query == "q=prod"


def test_another_persons_private_view_is_no_choice(team: Team, mona: User, oli: User, client_of: ClientOf):
    view = SavedView.objects.create(team=team, owner=oli, name="Prod", query="q=prod")
    assert client_of(mona).post(f"{CHANNELS}new/", NEW | {"view": str(view.pk), "query": ""}).status_code == 422


def test_a_view_and_a_filter_together_are_a_mistake(team: Team, mona: User, client_of: ClientOf):
    view = SavedView.objects.create(team=team, owner=mona, name="Prod", query="q=prod")
    answer = client_of(mona).post(f"{CHANNELS}new/", NEW | {"view": str(view.pk)})
    assert "not both" in text_of(answer)


def test_viewers_see_names_but_no_piece_of_an_address(team: Team, vera: User, mona: User, client_of: ClientOf):
    channel = add_channel(team, HOOK)
    for url in (CHANNELS, page_of(channel)):
        page = text_of(client_of(vera).get(url))
        assert "On call" in page
        assert f"…{channel.hint}" not in page
        assert f"…{channel.hint}" in text_of(client_of(mona).get(url)), "the control"
    assert "Send a test message" not in text_of(client_of(vera).get(page_of(channel)))
    assert "Mute for 1 h" not in text_of(client_of(vera).get(page_of(channel)))


def test_a_test_message_shows_what_became_of_it(team: Team, mona: User, receiver: Receiver, client_of: ClientOf):
    channel = add_channel(team, receiver.url)
    receiver.answer = status(404)
    client_of(mona).post(f"{page_of(channel)}test/")
    waiting = text_of(client_of(mona).get(page_of(channel)))
    assert "queued" in waiting
    assert "data-poll hx-get=" in waiting, "its failures are not those of a cancel"
    assert 'hx-trigger="every 3s, refresh"' in waiting
    assert 'hx-select-oob="#channel-facts"' in waiting, "the state above changes too"
    assert 'id="channel-facts"' in waiting
    send_due()
    page = text_of(client_of(mona).get(page_of(channel)))
    assert "The receiver answered with the status 404." in page
    assert "failed, retrying" in page


def test_a_failing_channel_is_shown_on_the_board(
    team: Team, mona: User, vera: User, receiver: Receiver, client_of: ClientOf
):
    channel = add_channel(team, receiver.url)
    board = "/teams/ops-north/runs/"
    assert "cannot send." not in text_of(client_of(vera).get(board))
    receiver.answer = status(500)
    channels.send_test(channel, by=BY)
    send_due()
    page = text_of(client_of(vera).get(board))
    assert "Channel “On call” cannot send. The receiver answered with the status 500." in page


def test_a_muted_channel_says_so_where_people_would_miss_it(
    team: Team, oli: User, vera: User, run: Run, client_of: ClientOf
):
    channel = add_channel(team, HOOK)
    client_of(oli).post(f"{page_of(channel)}mute/", {"hours": "8"})
    for url in ("/teams/ops-north/runs/", f"/teams/ops-north/runs/{run.pk}/", "/teams/ops-north/stop/"):
        page = text_of(client_of(vera).get(url))
        assert "Channel “On call” is muted until" in page
        assert "oli@example.com" in page
    client_of(oli).post(f"{page_of(channel)}mute/", {"off": "1"})
    assert "is muted until" not in text_of(client_of(vera).get("/teams/ops-north/runs/"))


@pytest.mark.parametrize("data", [{}, {"hours": "100"}, {"until": "soon"}, {"until": "2020-01-01T00:00"}])
def test_a_mute_without_a_good_time_mutes_nothing(data: dict[str, str], team: Team, oli: User, client_of: ClientOf):
    channel = add_channel(team, HOOK)
    answer = client_of(oli).post(f"{page_of(channel)}mute/", data, follow=True)
    assert "Nothing was muted" in text_of(answer)
    channel.refresh_from_db()
    assert channel.muted_until is None


def test_a_mute_until_a_time_is_in_the_persons_zone(team: Team, oli: User, client_of: ClientOf):
    User.objects.filter(pk=oli.pk).update(time_zone="Asia/Tokyo")
    channel = add_channel(team, HOOK)
    tomorrow = timezone.now() + timedelta(days=1)
    until = (tomorrow + timedelta(hours=9)).strftime("%Y-%m-%dT%H:%M")  # Tokyo is nine hours ahead
    client_of(oli).post(f"{page_of(channel)}mute/", {"until": until})
    channel.refresh_from_db()
    assert channel.muted_until == tomorrow.replace(second=0, microsecond=0)


def test_a_manager_changes_and_removes(team: Team, mona: User, client_of: ClientOf):
    channel, client = add_channel(team, HOOK), client_of(mona)
    rule = channel.rules.get()
    client.post(f"{page_of(channel)}rules/{rule.pk}/", A_RULE)
    rule.refresh_from_db()
    assert (rule.query, rule.quiet_minutes) == ("status=failed", 5)
    client.post(f"{page_of(channel)}rules/{rule.pk}/remove/")
    client.post(f"{page_of(channel)}change/", {"name": "Night", "address": ""})
    channel.refresh_from_db()
    assert (channel.name, channel.is_on, channel.rules.count()) == ("Night", False, 0)
    client.post(f"{page_of(channel)}remove/")
    assert client.get(page_of(channel)).status_code == 404


def test_a_rule_of_another_channel_is_not_found(team: Team, mona: User, client_of: ClientOf):
    first, second = add_channel(team, HOOK), add_channel(team, HOOK, name="Second")
    rule = second.rules.get()
    assert client_of(mona).post(f"{page_of(first)}rules/{rule.pk}/remove/").status_code == 404
    assert second.rules.count() == 1


# Own notices


@pytest.fixture
def notice(run: Run) -> str:
    return f"/teams/ops-north/runs/{run.pk}/notice/"


def end(run: Run) -> None:
    record_observation(run, reading(run, "COMPLETED"), timezone.now())


def test_a_person_gets_one_mail_when_the_run_ends(
    run: Run, vera: User, notice: str, mail_box: MailBox, client_of: ClientOf
):
    client = client_of(vera)
    assert "Mail me when this run ends" in text_of(client.get(notice.removesuffix("notice/")))
    for _ in range(2):
        client.post(notice)
    assert "You get a mail when this run ends" in text_of(client.get(notice.removesuffix("notice/")))
    work_off()
    assert mail_box.mails == []
    end(run)
    work_off()
    work_off()
    ((to, mail),) = mail_box.mails
    assert to == ["vera@example.com"]
    assert mail["Subject"] == f"[Taskruns] Ended (completed): {run.task.name}"
    assert "You asked for it" in mail.get_content()
    assert not RunNotice.objects.exists()


def test_a_notice_can_be_taken_back(run: Run, vera: User, notice: str, mail_box: MailBox, client_of: ClientOf):
    client_of(vera).post(notice)
    client_of(vera).post(notice, {"off": "1"})
    end(run)
    work_off()
    assert mail_box.mails == []


def test_a_leaver_gets_no_mail_about_a_run(run: Run, vera: User, notice: str, mail_box: MailBox, client_of: ClientOf):
    client_of(vera).post(notice)
    Membership.objects.filter(user=vera).delete()
    end(run)
    work_off()
    assert mail_box.mails == []
    assert (Delivery.objects.get().state, Delivery.objects.get().failure) == (DeliveryState.FAILED, "nobody")


def test_the_row_of_an_active_run_offers_the_mail(
    run: Run, vera: User, notice: str, mail_box: MailBox, client_of: ClientOf
):
    board = "/teams/ops-north/runs/"
    assert f'formaction="{notice}"' in text_of(client_of(vera).get(board))
    answer = client_of(vera).post(notice, headers={"Referer": f"http://testserver{board}"})
    assert answer["Location"] == board
    end(run)
    assert f'formaction="{notice}"' not in text_of(client_of(vera).get(board))


def test_without_mail_nothing_is_offered_and_a_sentence_says_why(
    run: Run, vera: User, notice: str, client_of: ClientOf
):
    assert "Mail me" not in text_of(client_of(vera).get(notice.removesuffix("notice/")))
    assert "sends no mail" in text_of(client_of(vera).post(notice, follow=True))
    assert not RunNotice.objects.exists()


def test_an_ended_run_is_not_waited_for(run: Run, vera: User, notice: str, mail_box: MailBox, client_of: ClientOf):
    end(run)
    run.refresh_from_db()
    assert run.status == Status.COMPLETED
    assert "already ended" in text_of(client_of(vera).post(notice, follow=True))
    jobs.match_facts()
    assert not Delivery.objects.exists()
