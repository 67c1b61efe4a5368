"""What programs call their columns: names of channels, devices, rows and qualities."""

from __future__ import annotations

import re

TAG_NAMES = frozenset(
    {
        "tag", "tagname", "tag_name", "tagid", "tag_id", "metric", "metric_name", "variable", "parameter", "param",
        "point", "pointname", "point_name", "name", "signal", "signal_name", "channel", "channel_name", "field",
        "_field", "attribute", "series", "measurement", "entity_id", "statistic_id", "item", "property", "sensor_name",
        "sensor_type", "quantity", "kpi"
    }
)  # fmt: skip
"""What columns are called whose words name channels."""

ID_NAME = re.compile(
    r"(.*[_ .-])?(stream|id|sensor|sensorid|device|deviceid|machine|machineid|asset|assetid|node|nodeid|host|hostname|"
    r"server|station|site|equipment|entity|meter|well|turbine|pump|unit_id|component|logger|mote|moteid|instance|plant|"
    r"location|room|engine|unit_number)([_ .-]?(id|no|nr|number|name))?"
)
"""What columns are called whose words name a stream."""

ROW_NAMES = frozenset(
    {
        "record", "rn", "row", "index", "no", "nr", "id", "#", "line", "rownum", "row_number"
    }
)  # fmt: skip
QUALITY_NAME = re.compile(
    r"(.*[_ .:-])?(quality|opcquality|qualitydetail|qc|status|qualitaet|qualität|guete|güte|qualite|qualité|calidad)"
    r"(_?(code|flag))?"
)
GOOD = frozenset(
    {
        "good", "ok", "valid", "normal", "true", "good, non-specific", "g", "gut", "bon",
        "bonne", "bueno", "buena"
    }
)  # fmt: skip
POOR = frozenset(
    {
        "bad", "uncertain", "questionable", "substituted", "suspect", "invalid", "poor", "error", "stale", "false", "b",
        "u", "unavailable", "unknown", "bad input", "no data", "bad, non-specific", "uncertain, non-specific",
        "not good", "offline", "schlecht", "ungültig", "unsicher", "mauvais", "mauvaise", "malo", "mala"
    }
)  # fmt: skip
INFLUX = frozenset({"result", "table", "_start", "_stop", "_measurement"})
"""Columns of InfluxDB that say how it was asked."""
