"""Usage by the hour, and which hours must be summed up again."""

from django.db import models


class StaleHour(models.Model):
    """An hour whose usage must be summed up again; written in the transaction that adds its rows."""

    hour = models.DateTimeField(primary_key=True)
    changes = models.BigIntegerField()

    def __str__(self) -> str:
        return self.hour.isoformat()


class Sums(models.Model):
    """The buckets count calls by the logarithm of their milliseconds: see monitoring/usage/percentiles.py."""

    requests = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0)
    cost_nano_usd = models.BigIntegerField(default=0)
    unpriced = models.BigIntegerField(
        default=0, help_text="Requests that reached a provider and whose cost is unknown."
    )
    total_buckets = models.JSONField(default=dict)
    ttft_buckets = models.JSONField(default=dict)

    class Meta:
        abstract = True


class UsageHour(Sums):
    """Usage of one hour (UTC) for one combination of its dimensions.

    Each row of the request log is in exactly one of these, so any sum over them is exact. `tags` has
    all of a request's tags, sorted, with commas between.
    """

    hour = models.DateTimeField()
    key_id = models.BigIntegerField(null=True)
    key_name = models.CharField(max_length=100, blank=True)
    team = models.CharField(max_length=64, blank=True)
    route = models.CharField(max_length=200, blank=True)
    target_id = models.BigIntegerField(null=True)
    provider = models.CharField(max_length=64, blank=True)
    upstream_model = models.CharField(max_length=200, blank=True)
    tags = models.CharField(max_length=1500, blank=True)
    status = models.PositiveSmallIntegerField(null=True)
    outcome = models.CharField(max_length=16)
    shadow = models.BooleanField(default=False)
    archived = models.BooleanField(default=False, help_text="Of rows that the log keeps no longer.")

    class Meta:
        indexes = [
            models.Index(fields=["hour"], name="usagehour_hour"),
            models.Index(fields=["key_id", "hour"], name="usagehour_key"),
            models.Index(fields=["team", "hour"], name="usagehour_team"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}:00 {self.route or '-'}"


class UsageSum(Sums):
    """Usage by one dimension alone, of an hour (UTC), or of a whole day once that is over.

    Made of UsageHour, for reports of long times: a day is here either as a whole or by its hours.
    """

    start = models.DateTimeField()
    whole_day = models.BooleanField(default=False)
    dimension = models.CharField(max_length=10, help_text="team, key ...; empty: everything.")
    value = models.CharField(max_length=200)
    errors = models.BigIntegerField(default=0)
    refused = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["dimension", "start", "value", "whole_day"], name="usagesum_unique"
            )
        ]
        indexes = [models.Index(fields=["start"], name="usagesum_start")]

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H}:00 {self.dimension}={self.value}"
