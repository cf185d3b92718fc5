"""The migration that dates roles from groups."""

from dataclasses import replace
from importlib import import_module

from django.apps import apps

from taskruns.models import AuditEvent, Membership, Team, TeamRole
from taskruns.services import audit
from tests.factories import actor, person


def test_upgrade_dates_group_roles_by_the_last_single_sign_on(team: Team):
    """Without a date, these roles would end with the upgrade."""
    migration = import_module("taskruns.migrations.0006_people_and_sso")
    nina, otto = person("nina@example.com"), person("otto@example.com")
    for user in (nina, otto):
        Membership.objects.create(team=team, user=user, role=TeamRole.VIEWER, by_groups=True)
    for method in ("oidc", "oidc+totp", "password"):
        by = replace(actor(nina), auth_method=method)
        audit.record_sign_in(nina, by=by)
    migration.date_group_roles(apps, None)
    nina.refresh_from_db()
    otto.refresh_from_db()
    assert nina.sso_signed_in_at == AuditEvent.objects.get(auth_method="oidc+totp").at
    assert otto.sso_signed_in_at is None
