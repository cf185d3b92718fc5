"""Whose word an address is, the last single sign-on of a person, counts of sign-in attempts, and mailed invitations."""

from django.db import migrations, models


def date_group_roles(apps, schema_editor):
    """Roles from groups count from the last sign-in by single sign-on: without a date all of them would end now."""
    events = apps.get_model("taskruns", "AuditEvent").objects.filter(
        chain="site", event="auth.sign_in", outcome="done", auth_method__startswith="oidc"
    )
    users = apps.get_model("taskruns", "User").objects
    for pk in users.filter(memberships__by_groups=True).values_list("pk", flat=True).distinct():
        at = events.filter(actor_id=str(pk)).aggregate(at=models.Max("at"))["at"]
        users.filter(pk=pk).update(sso_signed_in_at=at)


class Migration(migrations.Migration):

    dependencies = [
        ('taskruns', '0005_leases'),
    ]

    operations = [
        migrations.CreateModel(
            name='SignInCount',
            fields=[
                ('bucket', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('ends_at', models.DateTimeField(db_index=True)),
                ('attempts', models.PositiveIntegerField(default=1)),
                ('is_reported', models.BooleanField(default=False)),
            ],
        ),
        migrations.AddField(
            model_name='invitation',
            name='by_mail',
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name='invitation',
            name='mailed_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='user',
            name='email_status',
            field=models.CharField(blank=True, choices=[('', 'verified, or set on the host'), ('invited', 'an invitation that was not mailed'), ('changed', 'changed by a site admin')], default='', max_length=10),
        ),
        migrations.AddField(
            model_name='user',
            name='email_vouched_by',
            field=models.CharField(blank=True, max_length=254),
        ),
        migrations.AddField(
            model_name='user',
            name='guessed_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='user',
            name='guesses_unseen',
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name='user',
            name='password_works_until',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='user',
            name='sso_signed_in_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.RunPython(date_group_roles, migrations.RunPython.noop),
    ]
