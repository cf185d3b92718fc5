"""All URLs of the panel, in the order of the navigation."""

from django.urls import path, re_path, register_converter
from django.urls.converters import StringConverter

from taskruns.access.gate import check_declared
from taskruns.gateway.views import gateway
from taskruns.views import (
    audit,
    batches,
    board,
    channels,
    credentials,
    hooks,
    runs,
    saved_views,
    stops,
    style_guide,
    tasks,
    teams,
    tokens,
    triggers,
)
from taskruns.views.help import explain, rights
from taskruns.views.people import accounts, factors, profile, recent_auth, sessions
from taskruns.views.sso import actions


class AuditKind(StringConverter):
    """The formats in which the log can be downloaded."""

    regex = "jsonl|csv"


register_converter(AuditKind, "audit_kind")
urlpatterns = [
    path("", teams.home, name="home"),
    path("runs/", board.all_boards, name="teams"),
    path("runs/table/", board.all_tables, name="teams-table"),
    path("runs/chart/", board.all_charts, name="teams-chart"),
    path("teams/new/", teams.new, name="team-new"),
    path("invitations/<str:token>/", teams.invitation, name="invitation"),
    # Runs
    path("teams/<slug:slug>/runs/", board.board, name="board"),
    path("teams/<slug:slug>/runs/table/", board.table, name="board-table"),
    path("teams/<slug:slug>/runs/chart/", board.chart, name="board-chart"),
    path("teams/<slug:slug>/runs/by-arize-id/<path:arize_id>/", runs.by_arize_id, name="run-by-arize-id"),
    path("teams/<slug:slug>/runs/<uuid:run_id>/", runs.run, name="run"),
    path("teams/<slug:slug>/runs/<uuid:run_id>/cancel/", runs.cancel, name="run-cancel"),
    path("teams/<slug:slug>/runs/<uuid:run_id>/note/", runs.note, name="run-note"),
    path("teams/<slug:slug>/runs/<uuid:run_id>/notice/", runs.notice, name="run-notice"),
    path("teams/<slug:slug>/tasks/<uuid:task_id>/", tasks.task, name="task"),
    path("teams/<slug:slug>/tasks/<uuid:task_id>/strip/", tasks.strip, name="task-strip"),
    path("teams/<slug:slug>/tasks/<uuid:task_id>/trigger/", triggers.trigger, name="task-trigger"),
    # Bulk cancels and the emergency stop
    path("teams/<slug:slug>/batches/", batches.listing, name="batches"),
    path("teams/<slug:slug>/batches/<uuid:batch_id>/", batches.batch, name="batch"),
    path("teams/<slug:slug>/batches/<uuid:batch_id>/confirm/", batches.confirm, name="batch-confirm"),
    path("teams/<slug:slug>/batches/<uuid:batch_id>/remove/", batches.remove, name="batch-remove"),
    path("teams/<slug:slug>/batches/<uuid:batch_id>/abort/", batches.abort, name="batch-abort"),
    path("teams/<slug:slug>/batches/<uuid:batch_id>/retry/", batches.retry, name="batch-retry"),
    path("teams/<slug:slug>/stop/", stops.stop, name="stop"),
    path("teams/<slug:slug>/stop/lift/", stops.lift, name="stop-lift"),
    # Exporting runs
    path("teams/<slug:slug>/runs/export/", board.export_page, name="board-export-page"),
    path("teams/<slug:slug>/runs/export.csv", board.export_csv, name="board-export"),
    # Saved views of the board
    path("teams/<slug:slug>/views/", saved_views.listing, name="saved-views"),
    path("teams/<slug:slug>/views/<uuid:view_id>/", saved_views.change, name="saved-view"),
    path("teams/<slug:slug>/views/<uuid:view_id>/delete/", saved_views.delete, name="saved-view-delete"),
    path("teams/<slug:slug>/views/<uuid:view_id>/default/", saved_views.default, name="saved-view-default"),
    # API keys
    path("teams/<slug:slug>/credentials/", credentials.listing, name="credentials"),
    path("teams/<slug:slug>/credentials/new/", credentials.new, name="credential-new"),
    path(
        "teams/<slug:slug>/credentials/<uuid:credential_id>/replace/",
        credentials.replace,
        name="credential-replace",
    ),
    path("teams/<slug:slug>/credentials/<uuid:credential_id>/test/", credentials.test, name="credential-test"),
    path(
        "teams/<slug:slug>/credentials/<uuid:credential_id>/revoke/",
        credentials.revoke,
        name="credential-revoke",
    ),
    # Channels
    path("teams/<slug:slug>/channels/", channels.listing, name="channels"),
    path("teams/<slug:slug>/channels/new/", channels.new, name="channel-new"),
    path("teams/<slug:slug>/channels/<uuid:channel_id>/", channels.channel, name="channel"),
    path("teams/<slug:slug>/channels/<uuid:channel_id>/change/", channels.change, name="channel-change"),
    path("teams/<slug:slug>/channels/<uuid:channel_id>/test/", channels.test, name="channel-test"),
    path("teams/<slug:slug>/channels/<uuid:channel_id>/mute/", channels.mute, name="channel-mute"),
    path("teams/<slug:slug>/channels/<uuid:channel_id>/remove/", channels.remove, name="channel-remove"),
    path("teams/<slug:slug>/channels/<uuid:channel_id>/rules/new/", channels.new_rule, name="channel-rule-new"),
    path("teams/<slug:slug>/channels/<uuid:channel_id>/rules/<uuid:rule_id>/", channels.rule, name="channel-rule"),
    path(
        "teams/<slug:slug>/channels/<uuid:channel_id>/rules/<uuid:rule_id>/remove/",
        channels.remove_rule,
        name="channel-rule-remove",
    ),
    # Arize's webhook
    path("teams/<slug:slug>/channels/arize/", channels.arize_hook, name="arize-hook"),
    path("teams/<slug:slug>/channels/arize/secret/", channels.arize_hook_secret, name="arize-hook-secret"),
    path("teams/<slug:slug>/channels/arize/remove/", channels.remove_arize_hook, name="arize-hook-remove"),
    path("hooks/arize/<str:token>/", hooks.arize, name="hook"),
    # Arize's API for scripts. Any path: what is not offered gets a problem document, not a page
    re_path(r"^v2(?:/[\s\S]*)?\Z", gateway, name="gateway"),
    # Tokens of scripts
    path("teams/<slug:slug>/tokens/", tokens.listing, name="tokens"),
    path("teams/<slug:slug>/tokens/new/", tokens.new, name="token-new"),
    path("teams/<slug:slug>/tokens/<uuid:token_id>/replace/", tokens.replace, name="token-replace"),
    path("teams/<slug:slug>/tokens/<uuid:token_id>/revoke/", tokens.revoke, name="token-revoke"),
    # Members, invitations and team settings
    path("teams/<slug:slug>/members/", teams.members, name="members"),
    path("teams/<slug:slug>/members/add/", teams.add_member, name="member-add"),
    path("teams/<slug:slug>/members/<uuid:user_id>/role/", teams.change_role, name="member-role"),
    path("teams/<slug:slug>/members/<uuid:user_id>/remove/", teams.remove_member, name="member-remove"),
    path(
        "teams/<slug:slug>/invitations/<uuid:invitation_id>/revoke/",
        teams.revoke_invitation,
        name="invitation-revoke",
    ),
    path("teams/<slug:slug>/settings/", teams.settings, name="team-settings"),
    path("teams/<slug:slug>/archive/", teams.archive, name="team-archive"),
    # Help pages, and the account: profile, sessions, second factors, single sign-on
    path("rights/", rights, name="rights"),
    path("help/", explain, name="help"),
    path("styleguide/", style_guide.style_guide, name="style-guide"),
    path("accounts/profile/", profile.profile, name="profile"),
    path("accounts/sessions/", sessions.listing, name="sessions"),
    path("accounts/sessions/end-others/", sessions.end_others, name="sessions-end-others"),
    path("accounts/sessions/<int:session_id>/end/", sessions.end, name="session-end"),
    path("accounts/factors/", factors.listing, name="factors"),
    path("accounts/factors/app/", factors.totp, name="factor-totp"),
    path("accounts/factors/passkey/", factors.passkey, name="factor-passkey"),
    path("accounts/factors/recovery-codes/", factors.recovery_codes, name="factor-recovery-codes"),
    path("accounts/factors/<int:factor_id>/remove/", factors.remove, name="factor-remove"),
    path("accounts/confirm/", recent_auth.confirm, name="confirm"),
    path("accounts/confirm/finish/", recent_auth.finish, name="confirm-finish"),
    path("accounts/confirm/sso/", actions.confirm, name="sso-again"),
    path("accounts/sso/", actions.start, name="sso-login"),
    path("accounts/sso/callback/", actions.callback, name="sso-callback"),
    path("accounts/sso/connect/", actions.connect, name="sso-connect"),
    path("accounts/sso/disconnect/", actions.disconnect, name="sso-disconnect"),
    # All accounts, for site admins
    path("people/", accounts.listing, name="people"),
    path("people/<uuid:person_id>/", accounts.person, name="person"),
    path("people/<uuid:person_id>/change/", accounts.change, name="person-change"),
    path("people/<uuid:person_id>/role/", accounts.change_role, name="person-role"),
    path("people/<uuid:person_id>/disable/", accounts.disable, name="person-disable"),
    path("people/<uuid:person_id>/enable/", accounts.enable, name="person-enable"),
    path("people/<uuid:person_id>/sessions/end/", accounts.end_sessions, name="person-sessions-end"),
    # Audit
    path("audit/", audit.site, name="site-audit"),
    path("audit/verification/", audit.verification, name="audit-verification"),
    path("audit/encryption/", audit.encryption, name="encryption"),
    path("audit/verify/", audit.verify, name="audit-verify"),
    path("audit/export.<audit_kind:kind>", audit.site_export, name="site-audit-export"),
    path("teams/<slug:slug>/audit/", audit.listing, name="audit"),
    path("teams/<slug:slug>/audit/export.<audit_kind:kind>", audit.export, name="audit-export"),
]
check_declared(urlpatterns)
