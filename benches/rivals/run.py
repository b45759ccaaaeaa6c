#!/usr/bin/env python3
"""Runs one rival on one piece of work and prints what it took, as JSON: seconds, CPU-seconds of all its processes, MB.

    run.py NAME --database URL --pages http://127.0.0.1:PORT --sources N

The database is reached by TCP. Pages are asked as GET /sN?after_id=M&limit=1000 until one is empty; every event has an
`id` that is unique in its source. What arrives has to be unique by (source, id).
"""

import argparse
import concurrent.futures
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "target/rivals/bin"
INGESTR = ROOT / "target/rivals-ingestr/bin"


def pages(base, source):
    """The pages of one source, in order."""
    after_id = 0
    while True:
        with urllib.request.urlopen(f"{base}/s{source}?after_id={after_id}&limit=1000") as answer:
            page = json.load(answer)
        if not page:
            return
        for item in page:
            item["source"] = f"s{source}"
        after_id = page[-1]["id"]
        yield page


def dlt_load(arguments, disposition):
    """Runs in a process of its own: see `dlt`."""
    import dlt

    def resource_of(source):
        @dlt.resource(
            name=f"s{source}",
            table_name="events",
            write_disposition=disposition,
            primary_key=["source", "id"],
            parallelized=True,
        )
        def load():
            yield from pages(arguments.pages, source)

        return load

    pipeline = dlt.pipeline(
        f"rival_{os.getpid()}",
        destination=dlt.destinations.postgres(arguments.database),
        dataset_name="rival",
        pipelines_dir=str(Path(arguments.scratch) / "dlt"),
    )
    # For PostgreSQL, dlt's documentation calls CSV the fast format: it is loaded by COPY.
    pipeline.run([resource_of(n) for n in range(arguments.sources)], loader_file_format="csv")


def dlt(arguments, disposition):
    """dlt with parallel resources, CSV files, and its normalizer on every core."""
    environment = {
        **os.environ,
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
        "EXTRACT__WORKERS": "8",
        "NORMALIZE__WORKERS": str(os.cpu_count()),
        "NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS": "50000",
        "DATA_WRITER__BUFFER_MAX_ITEMS": "20000",
    }
    this = [str(MAIN / "python"), __file__, f"dlt-inner-{disposition}", *sys.argv[2:]]
    subprocess.run(this, env=environment, check=True, stdout=sys.stderr)


def tap(arguments):
    """A Singer tap: SCHEMA, then a RECORD for each event. Asks as many sources at once as the machine has cores."""
    properties = {
        "source": {"type": "string"},
        "id": {"type": "integer"},
        "type": {"type": "string"},
        "customer": {"type": "integer"},
        "amount": {"type": "number"},
        "paid": {"type": "boolean"},
        "note": {"type": "string"},
    }
    out = sys.stdout
    schema = {"type": "object", "properties": properties}
    message = {"type": "SCHEMA", "stream": "events", "schema": schema, "key_properties": ["source", "id"]}
    out.write(json.dumps(message) + "\n")

    def read(source):
        lines = []
        for page in pages(arguments.pages, source):
            lines += [json.dumps({"type": "RECORD", "stream": "events", "record": item}) for item in page]
        return "\n".join(lines) + "\n"

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for text in pool.map(read, range(arguments.sources)):
            out.write(text)


def target_postgres(arguments):
    """meltanolabs-target-postgres: upsert by key, COPY into its staging table, large batches."""
    config = Path(arguments.scratch) / "target.json"
    url = arguments.database.replace("postgresql://", "postgresql+psycopg://", 1)
    config.write_text(
        json.dumps(
            {
                "sqlalchemy_url": url,
                "default_target_schema": "rival",
                "load_method": "upsert",
                "use_copy": True,
                "batch_size_rows": 50000,
                "add_record_metadata": False,
                "activate_version": False,
                "validate_records": False,
            }
        )
    )
    tap_command = [str(MAIN / "python"), __file__, "tap", *sys.argv[2:]]
    with subprocess.Popen(tap_command, stdout=subprocess.PIPE) as producer:
        subprocess.run(
            [str(MAIN / "target-postgres"), "--config", str(config)],
            stdin=producer.stdout,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )


def ingestr(arguments):
    """ingestr, table to table: it has no source for pages of JSON. Merge by key."""
    command = [
        str(INGESTR / "ingestr"), "ingest", "--yes", "--progress", "log",
        "--source-uri", arguments.database, "--source-table", "public.pages",
        "--dest-uri", arguments.database, "--dest-table", "rival.events",
        "--incremental-strategy", "merge", "--incremental-key", "id",
        "--primary-key", "source", "--primary-key", "id",
        "--page-size", "50000", "--loader-file-size", "100000",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "DISABLE_TELEMETRY": "true"})


def sling(arguments):
    """sling, table to table. Incremental by key, which is its way to a unique key."""
    command = [
        str(INGESTR / "sling"), "run",
        "--src-conn", arguments.database, "--src-stream", "public.pages",
        "--tgt-conn", arguments.database, "--tgt-object", "rival.events",
        "--mode", "incremental", "--primary-key", "source,id", "--update-key", "id",
    ]  # fmt: skip
    environment = {**os.environ, "SLING_DISABLE_TELEMETRY": "TRUE"}
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)


RIVALS = {
    "dlt-merge": lambda arguments: dlt(arguments, "merge"),
    "dlt-append": lambda arguments: dlt(arguments, "append"),
    "target-postgres": target_postgres,
    "ingestr": ingestr,
    "sling": sling,
}
PARTS = {
    "dlt-inner-merge": lambda arguments: dlt_load(arguments, "merge"),
    "dlt-inner-append": lambda arguments: dlt_load(arguments, "append"),
    "tap": tap,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rival", choices=[*RIVALS, *PARTS])
    parser.add_argument("--database", required=True)
    parser.add_argument("--pages", required=True)
    parser.add_argument("--sources", type=int, required=True)
    parser.add_argument("--scratch", required=True, help="a directory that may be filled")
    arguments = parser.parse_args()
    if arguments.rival in PARTS:
        PARTS[arguments.rival](arguments)
        return
    assert urlsplit(arguments.database).port, "the database has to be reached by TCP"
    began = time.monotonic()
    RIVALS[arguments.rival](arguments)
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        json.dumps(
            {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "memory_mb": used.ru_maxrss / 1024}
        )
    )


if __name__ == "__main__":
    main()
