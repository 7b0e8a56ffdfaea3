"""Every statement on experiments, attempts and logs, written once, with what makes it safe."""

from __future__ import annotations

from pyexperimenter.database.schema import Schema

_CANDIDATES = 64  # rows that a worker tries to lock before it looks again
RETRIED = "retried"  # outcome of an attempt that failed, whose row was opened again for another try
PROBES = 32  # rows that a worker in random order asks for


class Statements:
    """The statements for one experiment's tables. Parameters are ``?``, in the order of the comment's list."""

    def __init__(self, schema: Schema) -> None:
        d, q = schema.dialect, schema.q
        table, attempts = q(schema.table), q(schema.attempts)
        keyfields = [q(name) for name in schema.keyfields]
        emptied = {name: f"{q(name)} = NULL" for name in schema.result_columns()}
        left = ", ".join(text for name, text in emptied.items() if name not in ("start_date", "name", "machine"))
        row = f"SELECT ID, {', '.join(keyfields)} FROM {table}"

        self.now = f"SELECT {d.now}"

        # keyfields, creation_date, status. The unique identity makes a second equal row impossible, whoever else
        # fills at the same time; the suffix passes over it.
        columns = [*keyfields, "creation_date", "status"]
        self.fill = (
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}){d.insert_missing}"
        )

        # [condition]. Locks the row it finds and passes over rows that other workers have locked.
        self.first_open = f"{row} WHERE status = 'created' AND {{}} ORDER BY ID LIMIT 1{d.skip_locked}"
        # [condition]. In an order other than that of the index a locking query would lock every open row. So
        # candidates are read without locks, and locked one by one.
        open_ids = f"SELECT ID FROM {table} WHERE status = 'created' AND {{}}"
        self.candidates = f"{open_ids} ORDER BY {{}}ID LIMIT {_CANDIDATES}"
        # [condition], IDs.
        self.candidates_among = f"{open_ids} AND ID IN ({', '.join('?' * PROBES)})"
        # [condition], ID.
        self.candidates_from = f"{open_ids} AND ID >= ? ORDER BY ID LIMIT {_CANDIDATES}"
        # [condition], twice. Two looks into the index (status, ID), where MIN and MAX would read all of it.
        least, greatest = (f"({open_ids} ORDER BY ID{order} LIMIT 1)" for order in ("", " DESC"))
        self.open_range = f"SELECT {least}, {greatest}"
        # ID, status.
        self.lock_row = f"{row} WHERE ID = ? AND status = ?{d.skip_locked}"
        self.await_row = f"{row} WHERE ID = ? AND status = ?{d.row_lock}"

        # name, machine, ID, status. Repeating the status makes a second claim impossible, with or without row
        # locks. What an earlier execution left (the row may have been opened by hand) is emptied.
        self.claim = (
            f"UPDATE {table} SET {left}, status = 'running', start_date = {d.now}, name = ?, machine = ? "
            "WHERE ID = ? AND status = ?"
        )
        # The same for a paused row, which keeps its results.
        self.resume = (
            f"UPDATE {table} SET status = 'running', start_date = {d.now}, name = ?, machine = ?, end_date = NULL, "
            "error = NULL WHERE ID = ? AND status = ?"
        )
        # error, ID. Only rows still open: a row that cannot be read must not block the queue.
        self.mark_unreadable = (
            f"UPDATE {table} SET status = 'error', error = ?, end_date = {d.now} WHERE ID = ? AND status = 'created'"
        )

        # experiment_id. The row is locked by the claim, so nobody adds an attempt meanwhile.
        self.last_attempt = (
            "SELECT COALESCE(MAX(number), 0), COALESCE(MAX(run), 1), COUNT(*) - COUNT(ended) "
            f"FROM {attempts} WHERE experiment_id = ?"
        )
        # outcome, experiment_id. An attempt still open now is one that lost its row.
        self.close_attempts = (
            f"UPDATE {attempts} SET ended = {d.now_exact}, outcome = ? WHERE experiment_id = ? AND ended IS NULL"
        )
        fields = (
            "experiment_id, number, run, worker, machine, pid, job_id, git_commit, git_dirty, python, library_version, "
            "lease_until, started, heartbeat"
        )
        self.open_attempt = (
            f"INSERT INTO {attempts} ({fields}) VALUES ({', '.join('?' * 11)}, {d.later}, {d.now_exact}, {d.now_exact})"
        )
        self.current_attempt = f"SELECT MAX(ID) FROM {attempts} WHERE experiment_id = ? AND ended IS NULL"

        # lease, [IDs]. Only attempts that hold their rows live on: fewer rows changed tell that some do not.
        held = (
            f"ended IS NULL AND EXISTS (SELECT 1 FROM {table} t "
            f"WHERE t.ID = {attempts}.experiment_id AND t.status = 'running')"
        )
        self.beat = (
            f"UPDATE {attempts} SET heartbeat = {d.now_exact}, lease_until = {d.later} WHERE {held} AND ID IN ({{}})"
        )
        # [condition]. Open rows, too: one may have been given back since a claim found none. Running rows that no lease
        # holds would stay so for ever.
        self.count_unfinished = (
            f"SELECT COUNT(*) FROM {table} WHERE (status = 'created' OR status = 'running' AND EXISTS (SELECT 1 "
            f"FROM {attempts} a WHERE a.experiment_id = {table}.ID AND a.ended IS NULL AND a.lease_until IS NOT NULL)) "
            "AND {}"
        )
        self.holding = f"SELECT ID FROM {attempts} WHERE {held} AND ID IN ({{}})"
        # The running rows are few, and found by the index on the status. Without locks: a candidate is asked again.
        self.expired = (
            "SELECT a.ID, a.experiment_id, a.heartbeat, a.job_id "
            f"FROM {table} t JOIN {attempts} a ON a.experiment_id = t.ID "
            f"WHERE t.status = 'running' AND a.ended IS NULL AND a.lease_until < {d.now_exact}"
        )
        # ID, heartbeat. Locks both, and finds nothing if the worker was heard of in the meantime.
        self.lock_silent = (
            f"SELECT a.ID FROM {attempts} a JOIN {table} t ON t.ID = a.experiment_id "
            f"WHERE a.ID = ? AND a.ended IS NULL AND t.status = 'running' AND a.heartbeat = ?{d.row_lock}"
        )
        # experiment_id, outcome, experiment_id. Attempts with this outcome since the experiment last came to an end, or
        # was reset.
        self.setbacks = (
            f"SELECT COUNT(*) FROM {attempts} WHERE experiment_id = ? AND outcome = ? AND number > COALESCE((SELECT "
            f"MAX(number) FROM {attempts} WHERE experiment_id = ? AND concludes)"
            ", 0)"
        )

        # identity, pattern of the identities below it.
        self.held_by = f"SELECT ID, experiment_id FROM {attempts} WHERE ended IS NULL AND (worker = ? OR worker LIKE ?)"

        self.worker_of = f"SELECT worker FROM {attempts} WHERE ID = ? AND experiment_id = ?"

        # attempt, status. The fence before every write of an attempt: it has to be open, and its row as it left
        # it. Locks both, so that neither changes before the transaction ends.
        self.fence = (
            f"SELECT a.last_write FROM {attempts} a JOIN {table} t ON t.ID = a.experiment_id "
            f"WHERE a.ID = ? AND a.ended IS NULL AND t.status = ?{d.row_lock}"
        )
        # [assignments], ID. After the fence.
        self.update_row = f"UPDATE {table} SET {{}} WHERE ID = ?"
        # outcome, concludes, error, wall_seconds, cpu_seconds, max_rss_bytes, output, ID. Changes no row if the attempt
        # is closed.
        self.finish_attempt = (
            f"UPDATE {attempts} SET ended = {d.now_exact}, outcome = ?, concludes = ?, error = ?, wall_seconds = ?, "
            "cpu_seconds = ?, max_rss_bytes = ?, output = ? WHERE ID = ? AND ended IS NULL"
        )
        # [assignments], status, error, ID. Changes no row if somebody gave it another status meanwhile.
        self.finish_row = (
            f"UPDATE {table} SET {{}}status = ?, error = ?, end_date = {d.now} WHERE ID = ? AND status = 'running'"
        )
        self.outcome = f"SELECT outcome FROM {attempts} WHERE ID = ?"
        self.late_results = f"SELECT late_results FROM {attempts} WHERE ID = ?"
        # late_results, ID. A holder that lost its row writes to its own attempt, which nobody else does.
        self.keep_late_results = f"UPDATE {attempts} SET late_results = ? WHERE ID = ?"
        self.keep_output = f"UPDATE {attempts} SET output = ? WHERE ID = ?"
        # token, ID. What is appended must not be appended twice: the token tells whether it arrived.
        self.last_write = f"SELECT last_write, outcome FROM {attempts} WHERE ID = ?"
        self.note_write = f"UPDATE {attempts} SET last_write = ? WHERE ID = ?"
        # The times that the executions last finished took.
        self.last_durations = (
            f"SELECT wall_seconds FROM {attempts} WHERE outcome = 'done' AND wall_seconds IS NOT NULL "
            "ORDER BY ID DESC LIMIT 101"
        )

        # outcome, concludes, [condition]. To close the attempts in the same transaction fences their holders off.
        self.reset_attempts = (
            f"UPDATE {attempts} SET ended = {d.now_exact}, outcome = ?, concludes = ? WHERE ended IS NULL "
            f"AND experiment_id IN (SELECT ID FROM {table} WHERE {{}})"
        )
        self.reset_rows = f"UPDATE {table} SET status = 'created', {', '.join(emptied.values())} WHERE {{}}"
        self.count_rows = f"SELECT COUNT(*) FROM {table} WHERE {{}}"

        self.counts = f"SELECT status, COUNT(*) FROM {table} GROUP BY status"
        self.status_of = f"SELECT status FROM {table} WHERE ID = ?"
        self.find = f"{row} WHERE {{}}"
        # [columns], [condition], [order], [limit].
        self.table = f"SELECT {{}} FROM {table} WHERE {{}} ORDER BY {{}}ID{{}}"
        # [condition].
        self.attempts = f"SELECT * FROM {attempts} WHERE {{}} ORDER BY ID"
        # ID, number of rows. The next ones behind an ID, found by the index (status, ID).
        self.errors = (
            f"SELECT ID, {', '.join(keyfields)}, error FROM {table} "
            "WHERE status = 'error' AND ID > ? ORDER BY ID LIMIT ?"
        )
        # [column of t, column of one], ID. Whether a column has another value somewhere than in this row. Columns are
        # compared, as a native JSON column equals no text.
        self.other_value = (
            f"SELECT 1 FROM {table} t JOIN {table} one ON one.ID = ? "
            "WHERE {0} <> {1} OR ({0} IS NULL) <> ({1} IS NULL) LIMIT 1"
        )
        self.now_exactly = f"SELECT {d.now_exact}"
        # Executions that ended lately. Those begun last are looked at, as they are found by their IDs; only so many of
        # them, in case that none has ended.
        self.last_executions = (
            f"SELECT started, ended FROM (SELECT ID, started, ended, outcome FROM {attempts} ORDER BY ID DESC LIMIT "
            "20000) latest WHERE outcome IN ('done', 'error', 'paused') ORDER BY ID DESC LIMIT 1000"
        )
        self.running = (
            "SELECT a.experiment_id, a.worker, a.machine, a.pid, a.job_id, a.started, a.heartbeat, a.lease_until "
            f"FROM {table} t JOIN {attempts} a ON a.experiment_id = t.ID "
            "WHERE t.status = 'running' AND a.ended IS NULL ORDER BY a.ID"
        )
        self.last_config = f"SELECT config FROM {q(schema.meta)} ORDER BY ID DESC LIMIT 1"
        self.keep_config = (
            f"INSERT INTO {q(schema.meta)} (created, schema_version, library_version, config) "
            f"VALUES ({d.now_exact}, ?, ?, ?)"
        )
        # [table], [columns], [marks]. Side tables are only ever added to; their writers are fenced before.
        self.insert_side = "INSERT INTO {} ({}) VALUES ({})"
        self.side_table = "SELECT * FROM {} ORDER BY ID"
        # [logtable], [condition]. The condition sees no other table's columns.
        self.all_logs = "SELECT log.* FROM {} log WHERE {} ORDER BY log.ID"
        # The same, of the run that gave the row its present state: the attempts since the last reset, across pauses.
        # Logs older than attempts are the predecessor's.
        self.current_logs = (
            f"SELECT log.* FROM (SELECT log.* FROM {{}} log WHERE {{}}) log JOIN {table} t ON t.ID = log.experiment_id "
            f"LEFT JOIN {attempts} a ON a.ID = log.attempt_id "
            f"LEFT JOIN (SELECT experiment_id, MAX(run) AS run FROM {attempts} GROUP BY experiment_id) latest "
            "ON latest.experiment_id = log.experiment_id "
            "WHERE t.status <> 'created' AND (latest.run IS NULL OR a.run = latest.run) ORDER BY log.ID"
        )
