"""The rows of Django's database cache (migration 0002 made the table)."""

from django.db import models


class CacheEntry(models.Model):
    cache_key = models.CharField(max_length=255, primary_key=True)
    value = models.TextField()
    expires = models.DateTimeField(db_index=True)

    class Meta:
        managed = False
        db_table = "cache"

    def __str__(self) -> str:
        return self.cache_key
