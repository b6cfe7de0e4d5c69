from django.db import migrations, models


def note_all(apps, schema_editor):
    """From now on each save notes the key's hash; these were saved before."""
    hashes = apps.get_model("routing", "ApiKey").objects.values_list("key_hash", flat=True)
    issued = apps.get_model("routing", "IssuedKey")
    issued.objects.bulk_create([issued(key_hash=one) for one in hashes], batch_size=500, ignore_conflicts=True)


class Migration(migrations.Migration):
    dependencies = [("routing", "0013_answer_bounds")]

    operations = [
        migrations.CreateModel(
            name="IssuedKey",
            fields=[
                ("key_hash", models.CharField(editable=False, max_length=64, primary_key=True, serialize=False)),
            ],
        ),
        migrations.RunPython(note_all, migrations.RunPython.noop),
    ]
