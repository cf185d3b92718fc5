from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('taskruns', '0009_signing_key_uses'),
    ]

    operations = [
        migrations.AddField(
            model_name='cancellation',
            name='look_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='cancellation',
            name='looks',
            field=models.PositiveSmallIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='credential',
            name='spaces_listed_from',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='credential',
            name='tasks_listed_from',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='task',
            name='gap_searched_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='task',
            name='searched_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddIndex(
            model_name='task',
            index=models.Index(fields=['credential', 'searched_at'], name='task_oldest_search'),
        ),
    ]
