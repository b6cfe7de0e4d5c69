"""Extra headers that hold credentials move out of the plain column and are encrypted."""

import json

from django.db import migrations, models

from routing import credentials, secret_headers


def encrypt(apps, schema_editor):
    providers = apps.get_model("routing", "Provider").objects.using(schema_editor.connection.alias)
    for pk, headers in list(providers.values_list("pk", "extra_headers")):
        plain, secret = secret_headers.split(headers or {})
        if secret:
            token = credentials.encrypt(json.dumps(secret))
            providers.filter(pk=pk).update(extra_headers=plain, encrypted_headers=token)


def decrypt(apps, schema_editor):
    providers = apps.get_model("routing", "Provider").objects.using(schema_editor.connection.alias)
    for row in list(providers.exclude(encrypted_headers="")):
        secret = json.loads(credentials.decrypt(row.encrypted_headers))
        providers.filter(pk=row.pk).update(extra_headers=row.extra_headers | secret, encrypted_headers="")


class Migration(migrations.Migration):
    dependencies = [("routing", "0015_error_words")]
    operations = [
        migrations.AddField(
            model_name="provider",
            name="encrypted_headers",
            field=models.TextField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                verbose_name="extra headers that hold credentials (encrypted)",
            ),
        ),
        migrations.RunPython(encrypt, decrypt, elidable=False),
    ]
