"""Every statement on experiments, attempts and logs, in four groups, each with the reason why it is safe.

Parameters are written ``:name``; those in ``IN (...)`` and ``VALUES (:row)`` are lists. Names in braces are filled in
once, with the tables and the dialect of the study. Other names, such as ``{condition}``, are left for each use.

The ID of an attempt is given to another one when the tables are dropped and made again, restored or copied. So each
statement that has an attempt's ID from an earlier transaction also asks for its token, which no other attempt has.
"""

from __future__ import annotations

from pyexperimenter.database.backends.dialect import ASIDE
from pyexperimenter.database.schema import Schema

RETRIED = "retried"  # outcome of an attempt that failed, and whose row was opened again for a retry
PROBES = 32  # random IDs to try before looking for open rows in order


class _Names(dict[str, str]):
    """What is filled in here; other names stay as they are."""

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"


class _Group:
    """Statements of one purpose."""

    def __init__(self, names: _Names) -> None:
        self.names = names


class _Statement:
    """A statement of a group, filled in when it is first used."""

    def __init__(self, text: str) -> None:
        self._text = text.strip()

    def __set_name__(self, group: type[_Group], name: str) -> None:
        self._name = name

    def __get__(self, group: _Group, _: type[_Group]) -> str:
        text = self._text.format_map(group.names)
        group.__dict__[self._name] = text  # found first from now on
        return text


class ClaimStatements(_Group):
    """Taking a row, and what a worker holds."""

    # Locks the row that it finds, and skips rows that other workers have locked.
    first_open = _Statement("""
        SELECT ID, {keyfields} FROM {table} WHERE status = 'created' AND {condition} ORDER BY ID LIMIT 1{skip_locked}
    """)
    # In any order but that of the index, a locking query would lock every open row, and with a condition every row
    # before the first that meets it. So rows are found without locks, many at a time, and then locked one by one.
    many_open = _Statement("""
        SELECT ID FROM {table} WHERE status = 'created' AND {condition} ORDER BY {order}ID LIMIT 10000
    """)
    open_among = _Statement("SELECT ID FROM {table} WHERE status = 'created' AND {condition} AND ID IN (:probes)")
    open_from = _Statement("""
        SELECT ID FROM {table} WHERE status = 'created' AND {condition} AND ID >= :first ORDER BY ID LIMIT 64
    """)
    # Two reads of the index on (status, ID), where MIN and MAX would read all of it.
    open_range = _Statement("""
        SELECT (SELECT ID FROM {table} WHERE status = 'created' AND {condition} ORDER BY ID LIMIT 1),
            (SELECT ID FROM {table} WHERE status = 'created' AND {condition} ORDER BY ID DESC LIMIT 1)
    """)
    # By the primary key. The condition is repeated, as the row was found a while ago.
    lock_open = _Statement("""
        SELECT ID, {keyfields} FROM {table}
        WHERE ID = :experiment_id AND status = 'created' AND {condition}{skip_locked}
    """)
    lock_status = _Statement("SELECT status FROM {table} WHERE ID = :experiment_id{row_lock}")
    await_row = _Statement(
        "SELECT ID, {keyfields} FROM {table} WHERE ID = :experiment_id AND status = :status{row_lock}"
    )

    # Repeating the status makes a second claim impossible, with or without row locks. What an earlier execution left is
    # emptied, since the row may have been opened by hand.
    take = _Statement("""
        UPDATE {table} SET {left} = NULL, status = 'running', start_date = {now}, name = :name, machine = :machine
        WHERE ID = :experiment_id AND status = :status
    """)
    # The same for a paused row, which keeps its results.
    resume = _Statement("""
        UPDATE {table} SET status = 'running', start_date = {now}, name = :name, machine = :machine,
            end_date = NULL, error = NULL
        WHERE ID = :experiment_id AND status = :status
    """)
    # Only a row that is still open. Without this, a row that cannot be read would block all others.
    mark_unreadable = _Statement("""
        UPDATE {table} SET status = 'error', error = :error, end_date = {now}
        WHERE ID = :experiment_id AND status = 'created'
    """)
    # An attempt that is still open when its row is claimed or reset has lost the row, which is locked.
    close_attempts = _Statement("""
        UPDATE {attempts} SET ended = {now_exact}, outcome = :outcome, concludes = :concludes, error = :cause
        WHERE ended IS NULL AND experiment_id IN (:experiments)
    """)
    # The row is locked, so no other process adds an attempt with the same number.
    open_attempt = _Statement("""
        INSERT INTO {attempts} (experiment_id, number, run, worker, machine, pid, job_id, git_commit, git_dirty,
            git_diff_hash, python, library_version, environment, token, lease_until, started, heartbeat)
        SELECT :experiment_id, {next_number}, {run}, :identity, :machine, :pid, :job_id, :git_commit, :git_dirty,
            :git_diff_hash, :python, :library, :environment, :token, {later}, {now_exact}, {now_exact}
        FROM {attempts} WHERE experiment_id = :experiment_id
    """)
    next_number = _Statement("{next_number}")
    same_run = _Statement("COALESCE(MAX(run), 1)")
    current_attempt = _Statement("""
        SELECT ID, {token} FROM {attempts} WHERE experiment_id = :experiment_id AND ended IS NULL
        ORDER BY ID DESC LIMIT 1
    """)
    # All that one worker holds, or all workers whose identities begin with this one.
    held_by = _Statement("""
        SELECT ID, experiment_id, {token} FROM {attempts}
        WHERE ended IS NULL AND (worker = :identity OR worker LIKE :below)
    """)
    worker_of = _Statement("SELECT worker FROM {attempts} WHERE {this}")


class LeaseStatements(_Group):
    """Renewing leases, and taking rows whose lease has run out."""

    # Only attempts that still hold their rows. If it changes fewer rows than there are attempts, some have lost theirs.
    beat = _Statement("""
        UPDATE {attempts} SET heartbeat = {now_exact}, lease_until = {later}
        WHERE {held} AND ID IN (:attempts) AND {token} IN (:tokens)
    """)
    # Also those that have ended as usual, which their process may be about to say. Its own limit counts instead of
    # MySQL's sql_select_limit: who is missing counts as lost.
    holding = _Statement("""
        SELECT ID, {token} FROM {attempts}
        WHERE ({held} OR outcome IN ('done', 'error', 'paused', 'retried')) AND ID IN (:attempts) LIMIT 1000000
    """)
    # The index on the ends and leases of attempts finds them. No locks: each is checked again.
    expired = _Statement("""
        SELECT a.ID, a.experiment_id, t.status, COALESCE(a.token, ''), a.heartbeat, a.job_id
        FROM {attempts} a JOIN {table} t ON t.ID = a.experiment_id
        WHERE a.ended IS NULL AND a.lease_until < {now_exact} ORDER BY a.ID
    """)
    # Locks row and attempt. Finds nothing if there has been another heartbeat.
    lock_silent = _Statement("""
        SELECT t.status FROM {row_and_attempt} AND a.ended IS NULL AND a.heartbeat = :heartbeat{row_lock}
    """)
    # Reads the attempts of all running rows, so few may ask. A row without attempts may be executed by py-experimenter.
    # An attempt without a lease was opened by `attach`, and holds nothing.
    unheld = _Statement("""
        SELECT t.ID, MAX(a.number) FROM {table} t JOIN {attempts} a ON a.experiment_id = t.ID
        WHERE t.status = 'running' AND {condition} GROUP BY t.ID
        HAVING COUNT(CASE WHEN a.ended IS NULL AND a.lease_until IS NOT NULL THEN 1 END) = 0
    """)
    # Attempts with this outcome since the experiment last finished or was reset.
    setbacks = _Statement("""
        SELECT COUNT(*) FROM {attempts} WHERE experiment_id = :experiment_id AND outcome = :outcome
            AND number > COALESCE(
                (SELECT MAX(number) FROM {attempts} WHERE experiment_id = :experiment_id AND concludes), 0)
    """)
    # All that a worker has to know that finds nothing open, in one statement, as thousands may ask. Running rows count
    # under a lease only; others might stay as they are for ever. Lost are rows as in `unheld`, and attempts as in
    # `expired`, even those of other selections.
    unfinished = _Statement("""
        SELECT COUNT(CASE WHEN status = 'created' THEN 1 END),
            COUNT(CASE WHEN status = 'running' AND {leased} THEN 1 END),
            COUNT(CASE WHEN status = 'running' AND NOT {leased} AND EXISTS (
                SELECT 1 FROM {attempts} a WHERE a.experiment_id = {table}.ID) THEN 1 END)
            + (SELECT COUNT(*) FROM {attempts} WHERE ended IS NULL AND lease_until < {now_exact})
        FROM {table} WHERE status IN ('created', 'running') AND {condition}
    """)


class WriteStatements(_Group):
    """Filling, what attempts write, and resetting."""

    # The unique identity makes a second equal row impossible, even if several processes fill at the same time. What is
    # the same for all rows is in the text.
    fill = _Statement("""
        INSERT INTO {table} ({keyfields}, creation_date, status) VALUES (:row, '{created}', 'created'){insert_missing}
    """)
    # The same for rows that are new, if the database can copy: it fails if one of them exists.
    copy = _Statement("COPY {table} ({keyfields}, creation_date, status) FROM STDIN")
    # The same for rows of which many exist: they are put into a temporary table, and go from there.
    copy_aside = _Statement("COPY {aside} FROM STDIN")
    insert_aside = _Statement("INSERT INTO {aside} VALUES (:row)")
    fill_from_aside = _Statement("""
        INSERT INTO {table} ({keyfields}, creation_date, status)
        SELECT {keyfields}, '{created}', 'created' FROM {aside}{unless_known}{insert_missing}
    """)

    # Comes before every write of an attempt: the attempt has to be open, and its row in the state that the attempt left
    # it in. Locks both, so that neither changes before the end of the transaction.
    fence = _Statement("""
        SELECT a.replayed FROM {row_and_attempt} AND a.ended IS NULL AND t.status = :status{row_lock}
    """)
    # After the fence.
    update_row = _Statement("UPDATE {table} SET {assignments} WHERE ID = :experiment_id")
    # After the fence, as for all side tables.
    insert_side = _Statement("INSERT INTO {side} ({columns}) VALUES (:row)")
    # Changes no row if the attempt is closed.
    finish_attempt = _Statement("""
        UPDATE {attempts} SET ended = {now_exact}, outcome = :outcome, concludes = :concludes, error = :error,
            wall_seconds = :wall_seconds, cpu_seconds = :cpu_seconds, max_rss_bytes = :max_rss_bytes, output = :output
        WHERE {this} AND ended IS NULL
    """)
    # These change no row unless the attempt holds it. They come before `finish_attempt`, as all lock a row before its
    # attempts. A database may see the attempt as it was before the row's lock was waited for, so both have to succeed.
    finish_row = _Statement("""
        UPDATE {table} SET {assignments}status = :status, error = :error, end_date = {now} WHERE {held_row}
    """)
    give_back_row = _Statement("UPDATE {table} SET status = 'created', {emptied} = NULL WHERE {held_row}")
    has_imported = _Statement("SELECT 1 FROM {attempts} WHERE worker = :identity LIMIT 1")
    outcome = _Statement("SELECT outcome FROM {attempts} WHERE {this}")
    # An attempt that has lost its row writes to its own row, which no other process does.
    late_results = _Statement("SELECT late_results FROM {attempts} WHERE {this}")
    keep_late_results = _Statement("UPDATE {attempts} SET late_results = :results WHERE {this}")
    keep_output = _Statement("UPDATE {attempts} SET output = :output WHERE {this}")
    # After the fence, so that no other process appends them in between. The index on the experiment finds them.
    appended = _Statement("""
        SELECT DISTINCT write_token FROM {side} WHERE experiment_id = :experiment_id AND write_token IN (:tokens)
    """)
    # The results that were written from journals, by the tokens of their notes.
    replayed = _Statement("SELECT replayed, outcome FROM {attempts} WHERE {this}")
    keep_replayed = _Statement("UPDATE {attempts} SET replayed = :replayed WHERE {this}")

    # A condition is evaluated only here: a second time, other rows may meet it. The same transaction then changes the
    # rows by their IDs. They are locked in the order of IDs, so that two resets do not block each other.
    lock_rows = _Statement("SELECT ID FROM {table} WHERE {condition} ORDER BY ID{row_lock}")
    # Together with `close_attempts`, which keeps the attempts from writing to the rows.
    reset_rows = _Statement("UPDATE {table} SET status = 'created', {emptied} = NULL WHERE ID IN (:experiments)")

    # One statement, so that no row is removed that has just changed. Attempts and logs go with their rows.
    remove_rows = _Statement("DELETE FROM {table} WHERE {condition}")

    last_config = _Statement("SELECT config FROM {meta} ORDER BY ID DESC LIMIT 1")
    keep_config = _Statement("""
        INSERT INTO {meta} (created, schema_version, library_version, config)
        VALUES ({now_exact}, :schema_version, :library, :config)
    """)
    # With the configuration at that time, so that that of the last record is always the current one.
    keep_event = _Statement("""
        INSERT INTO {meta} (created, schema_version, library_version, config, event)
        VALUES ({now_exact}, :schema_version, :library, :config, :event)
    """)


class ReadStatements(_Group):
    """Queries without locks."""

    now = _Statement("SELECT {now}")
    now_exactly = _Statement("SELECT {now_exact}")
    count_rows = _Statement("SELECT COUNT(*) FROM {table} WHERE {condition}")
    counts = _Statement("SELECT status, COUNT(*) FROM {table} GROUP BY status")
    # Under a condition on other columns. Grouped by the status itself, MySQL would read each row by way of its index.
    counts_where = _Statement(
        "SELECT COALESCE(status, ''), COUNT(*) FROM {table} WHERE {condition} GROUP BY 1 ORDER BY 1"
    )
    # How many blocks are complete, have a failure, are begun, and all.
    block_counts = _Statement("""
        SELECT COUNT(CASE WHEN done = size THEN 1 END), COUNT(CASE WHEN failed > 0 THEN 1 END),
            COUNT(CASE WHEN done < size AND failed = 0 AND begun > 0 THEN 1 END), COUNT(*)
        FROM (
            SELECT COUNT(*) AS size, COUNT(CASE WHEN status = 'done' THEN 1 END) AS done,
                COUNT(CASE WHEN status = 'error' THEN 1 END) AS failed,
                COUNT(CASE WHEN status <> 'created' THEN 1 END) AS begun
            FROM {table} GROUP BY {blocks}) b
    """)
    # Blocks with rows both before and after an ID, if an open row is before it: the last one but this many.
    id_before_last = _Statement("SELECT ID FROM {table} ORDER BY ID DESC LIMIT 1 OFFSET :added")
    blocks_continued = _Statement("""
        SELECT COUNT(*) FROM (
            SELECT 1 AS one FROM {table} GROUP BY {blocks} HAVING MIN(ID) <= :last AND MAX(ID) > :last) b
        WHERE EXISTS (SELECT 1 FROM {table} WHERE status = 'created' AND ID <= :last)
    """)
    environment_counts = _Statement("SELECT environment, COUNT(*) FROM {attempts} GROUP BY environment")
    meta = _Statement("SELECT * FROM {meta} ORDER BY ID")
    largest_id = _Statement("SELECT MAX(ID) FROM {table}")
    first_and_last_id = _Statement("SELECT MIN(ID), MAX(ID) FROM {table}")
    last_row = _Statement("SELECT ID, creation_date FROM {table} ORDER BY ID DESC LIMIT 1")
    status_of = _Statement("SELECT status FROM {table} WHERE ID = :experiment_id")
    find = _Statement("SELECT ID, {keyfields} FROM {table} WHERE {condition}")
    table = _Statement("SELECT {columns} FROM {table} WHERE {condition} ORDER BY {order}ID {direction}{limit}")
    attempts = _Statement("SELECT {columns} FROM {attempts} WHERE {condition} ORDER BY ID")
    some_attempts = _Statement("SELECT DISTINCT {columns} FROM {attempts} WHERE {condition} LIMIT 2")
    audits = _Statement(
        "SELECT experiment_id, late_results, error FROM {attempts} WHERE worker LIKE :below ORDER BY ID"
    )
    keyfields_from = _Statement("SELECT ID, {keyfields} FROM {table} WHERE ID > :last ORDER BY ID LIMIT :limit")
    # By the index on the ends of attempts, since rows have none. There may be too few of them.
    newest_errors = _Statement("""
        SELECT t.ID FROM (
            SELECT experiment_id, ended FROM {attempts} WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT 2000) last
        JOIN {table} t ON t.ID = last.experiment_id
        WHERE t.status = 'error' GROUP BY t.ID ORDER BY MAX(last.ended) DESC LIMIT :limit
    """)
    # The next ones after an ID, by the index on (status, ID).
    errors = _Statement("""
        SELECT ID, {keyfields}, error FROM {table} WHERE status = 'error' AND ID > :last ORDER BY ID LIMIT :limit
    """)
    # Whether a column has another value in some row than in this one. Columns are compared with columns, because a
    # native JSON column equals no text.
    other_value = _Statement("""
        SELECT 1 FROM {table} t JOIN {table} one ON one.ID = :experiment_id
        WHERE {column} <> {own} OR ({column} IS NULL) <> ({own} IS NULL) LIMIT 1
    """)
    latest_attempt = _Statement("SELECT COALESCE(MAX(ID), 0) FROM {attempts}")
    last_durations = _Statement("""
        SELECT wall_seconds FROM {attempts} WHERE outcome = 'done' AND wall_seconds IS NOT NULL
        ORDER BY ID DESC LIMIT 101
    """)
    # The last executions that have ended. The index on the ID finds those that began last; the inner limit is for a
    # table in which few have ended.
    last_executions = _Statement("""
        SELECT started, ended FROM
            (SELECT ID, started, ended, outcome FROM {attempts} ORDER BY ID DESC LIMIT 20000) latest
        WHERE outcome IN ('done', 'error', 'paused') ORDER BY ID DESC LIMIT 1000
    """)
    # Executions from the whole study, found by their IDs.
    first_and_last_attempt = _Statement("SELECT MIN(ID), MAX(ID) FROM {attempts}")
    executions_among = _Statement("""
        SELECT {columns}, a.started, a.ended FROM {attempts} a JOIN {table} t ON t.ID = a.experiment_id
        WHERE a.ID IN (:probes) AND a.outcome IN ('done', 'error', 'paused')
    """)
    running = _Statement("""
        SELECT a.experiment_id, a.worker, a.machine, a.pid, a.job_id, a.started, a.heartbeat, a.lease_until
        FROM {table} t JOIN {attempts} a ON a.experiment_id = t.ID
        WHERE t.status = 'running' AND a.ended IS NULL ORDER BY a.ID
    """)
    # One row for each combination of values; {value} is a number. With the limit inside, MariaDB would read most of the
    # rows one by one, by way of the index on the status.
    groups = _Statement("""
        SELECT {shown}, state, size, number, mean, squares FROM (
            SELECT {columns}, status AS state, COUNT(*) AS size,
                COUNT({value}) AS number, AVG({value}) AS mean, {squares} AS squares
            FROM {table} WHERE {condition} GROUP BY {groups}, status) found
        ORDER BY {order}{limit}
    """)
    # Squares are measured from it. A number of the size of the results is enough.
    center = _Statement("""
        SELECT AVG(result) FROM (
            SELECT {value} AS result FROM {table} WHERE {condition} AND {value} IS NOT NULL LIMIT 1000) first_rows
    """)
    first_and_last_end = _Statement("SELECT MIN(ended), MAX(ended) FROM {attempts}")
    # The index on the ends of attempts is all that is read.
    ended_until = _Statement(
        "SELECT {number}, COUNT(*) FROM {attempts} WHERE ended > :since_{number} AND ended <= :until_{number}"
    )
    versions = _Statement("""
        SELECT git_commit, git_dirty, COUNT(*) FROM
            (SELECT ID, git_commit, git_dirty FROM {attempts} ORDER BY ID DESC LIMIT 20000) latest
        GROUP BY git_commit, git_dirty ORDER BY 3 DESC
    """)
    usage = _Statement("""
        SELECT outcome, COUNT(*), SUM(wall_seconds), SUM(cpu_seconds), MAX(max_rss_bytes) FROM {attempts}
        GROUP BY outcome ORDER BY 1
    """)
    emissions = _Statement("SELECT SUM(emissions_kg), SUM(energy_consumed_kw) FROM {codecarbon}")
    # IDs are given in the order of starts; some are missing.
    last_attempts = _Statement("ID > (SELECT MAX(ID) FROM {attempts}) - :last")
    side_table = _Statement("SELECT * FROM {side} ORDER BY ID")
    # The condition may use the columns of the logtable only.
    all_logs = _Statement("SELECT log.* FROM {side} log WHERE {condition} ORDER BY log.ID")
    # The same for the run to which the row owes its state: the attempts since the last reset, including those before a
    # pause. Logs without an attempt are from py-experimenter.
    current_logs = _Statement("""
        SELECT log.* FROM (SELECT log.* FROM {side} log WHERE {condition}) log
        JOIN {table} t ON t.ID = log.experiment_id
        LEFT JOIN {attempts} a ON a.ID = log.attempt_id
        WHERE t.status <> 'created' AND NOT EXISTS (
            SELECT 1 FROM {attempts} later WHERE later.experiment_id = log.experiment_id
                AND (a.run IS NULL OR later.run > a.run))
        ORDER BY log.ID
    """)


class Statements:
    """The statements for the tables of one study.

    Parameters
    ----------
    schema : Schema
        The tables.
    """

    def __init__(self, schema: Schema) -> None:
        dialect, quote = schema.dialect, schema.q
        table, attempts = quote(schema.table), quote(schema.attempts)
        emptied = schema.result_columns()
        names = _Names(
            table=table,
            attempts=attempts,
            meta=quote(schema.meta),
            codecarbon=quote(schema.codecarbon),
            keyfields=", ".join(map(quote, schema.keyfields)),
            emptied=" = NULL, ".join(map(quote, emptied)),
            left=" = NULL, ".join(quote(name) for name in emptied if name not in ("start_date", "name", "machine")),
            token="COALESCE(token, '')",  # attempts of older versions have none
            next_number="COALESCE(MAX(number), 0) + 1",
            this="ID = :attempt AND COALESCE(token, '') = :token",
            # The row first, whose lock every transaction takes first.
            row_and_attempt=(
                f"{table} t JOIN {attempts} a ON a.experiment_id = t.ID "
                "WHERE t.ID = :experiment_id AND a.ID = :attempt AND COALESCE(a.token, '') = :token"
            ),
            held_row=(
                f"ID = :experiment_id AND status = 'running' AND EXISTS (SELECT 1 FROM {attempts} a "
                "WHERE a.ID = :attempt AND COALESCE(a.token, '') = :token AND a.ended IS NULL)"
            ),
            leased=(
                f"EXISTS (SELECT 1 FROM {attempts} a WHERE a.experiment_id = {table}.ID "
                "AND a.ended IS NULL AND a.lease_until IS NOT NULL)"
            ),
            held=(
                f"ended IS NULL AND EXISTS (SELECT 1 FROM {table} t "
                f"WHERE t.ID = {attempts}.experiment_id AND t.status = 'running')"
            ),
            now=dialect.now,
            now_exact=dialect.now_exact,
            later=dialect.later,
            row_lock=dialect.row_lock,
            skip_locked=dialect.skip_locked,
            insert_missing=dialect.insert_missing,
            aside=ASIDE,
            unless_known=dialect.unless_known.format(table=table, identity=schema.identity(f"{ASIDE}.")),
        )
        self.claim = ClaimStatements(names)
        self.lease = LeaseStatements(names)
        self.write = WriteStatements(names)
        self.read = ReadStatements(names)
