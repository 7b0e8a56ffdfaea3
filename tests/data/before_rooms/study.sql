BEGIN TRANSACTION;
CREATE TABLE "study" ("ID" INTEGER PRIMARY KEY AUTOINCREMENT, "dataset" VARCHAR(50) DEFAULT NULL, "seed" INT DEFAULT NULL, "creation_date" DATETIME DEFAULT (datetime('now')), "status" VARCHAR(255) DEFAULT 'created', "start_date" DATETIME DEFAULT NULL, "name" LONGTEXT DEFAULT NULL, "machine" VARCHAR(255) DEFAULT NULL, "accuracy" DOUBLE DEFAULT NULL, "model" LONGTEXT DEFAULT NULL, "end_date" DATETIME DEFAULT NULL, "error" LONGTEXT DEFAULT NULL);
INSERT INTO "study" VALUES(1,'iris',0,'2026-11-26 03:23:14','done','2026-11-26 03:23:14','PyExperimenter','node1',0.0,NULL,'2026-11-26 03:23:14',NULL);
INSERT INTO "study" VALUES(2,'iris',1,'2026-11-26 03:23:14','error','2026-11-26 03:23:15','PyExperimenter','node1',NULL,NULL,'2026-11-26 03:23:15','Traceback (most recent call last):
  File "<study>", line 5, in function
ValueError: bad seed
');
INSERT INTO "study" VALUES(3,'iris',2,'2026-11-26 03:23:14','running','2026-11-26 03:23:15','PyExperimenter','node1',NULL,NULL,NULL,NULL);
INSERT INTO "study" VALUES(4,'wine',0,'2026-11-26 03:23:14','created',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "study" VALUES(5,'wine',1,'2026-11-26 03:23:14','created',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "study" VALUES(6,'wine',2,'2026-11-26 03:23:14','created',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE "study__attempts" ("ID" INTEGER PRIMARY KEY AUTOINCREMENT, "experiment_id" INTEGER NOT NULL, "number" INT DEFAULT NULL, "run" INT DEFAULT NULL, "worker" VARCHAR(255) DEFAULT NULL, "machine" VARCHAR(255) DEFAULT NULL, "pid" BIGINT DEFAULT NULL, "job_id" VARCHAR(255) DEFAULT NULL, "started" DATETIME DEFAULT NULL, "heartbeat" DATETIME DEFAULT NULL, "lease_until" DATETIME DEFAULT NULL, "ended" DATETIME DEFAULT NULL, "outcome" VARCHAR(255) DEFAULT NULL, "concludes" BOOL DEFAULT NULL, "error" LONGTEXT DEFAULT NULL, "wall_seconds" DOUBLE DEFAULT NULL, "cpu_seconds" DOUBLE DEFAULT NULL, "max_rss_bytes" BIGINT DEFAULT NULL, "git_commit" VARCHAR(255) DEFAULT NULL, "git_dirty" BOOL DEFAULT NULL, "python" VARCHAR(255) DEFAULT NULL, "library_version" VARCHAR(255) DEFAULT NULL, "late_results" JSON TEXT DEFAULT NULL, "last_write" VARCHAR(255) DEFAULT NULL, "output" LONGTEXT DEFAULT NULL, FOREIGN KEY ("experiment_id") REFERENCES "study" ("ID") ON DELETE CASCADE);
INSERT INTO "study__attempts" VALUES(1,1,1,1,'04d8704bf3484b458620c6eec8d7f83d.0','node1',19203,NULL,'2026-11-26 03:23:14.681','2026-11-26 03:23:14.681','2026-11-26 03:28:14.681','2026-11-26 03:23:14.700','done',1,NULL,8.19678100015153177082e-03,0.0,50421760,NULL,NULL,'3.11.7','2.0.0.dev0',NULL,'234612ace4244a269fd114ab012fdbf6',NULL);
INSERT INTO "study__attempts" VALUES(2,2,1,1,'04d8704bf3484b458620c6eec8d7f83d.0','node1',19203,NULL,'2026-11-26 03:23:15.118','2026-11-26 03:23:15.118','2026-11-26 03:28:15.118','2026-11-26 03:23:15.130','error',1,'Traceback (most recent call last):
  File "<study>", line 5, in function
ValueError: bad seed
',1.06224510000174632295e-02,0.0,50421760,NULL,NULL,'3.11.7','2.0.0.dev0',NULL,'61642c0845714d02afeab9143a438c63',NULL);
INSERT INTO "study__attempts" VALUES(3,3,1,1,'0123456789abcdef.0','node1',19203,NULL,'2026-11-26 03:23:15.137','2026-11-26 03:23:15.137','2026-11-26 03:28:15.137',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'3.11.7','2.0.0.dev0',NULL,NULL,NULL);
CREATE TABLE "study__epochs" ("ID" INTEGER PRIMARY KEY AUTOINCREMENT, "experiment_id" INTEGER NOT NULL, "timestamp" DATETIME DEFAULT NULL, "epoch" INT DEFAULT NULL, "loss" DOUBLE DEFAULT NULL, "attempt_id" BIGINT DEFAULT NULL, FOREIGN KEY ("experiment_id") REFERENCES "study" ("ID") ON DELETE CASCADE);
INSERT INTO "study__epochs" VALUES(1,1,'2026-11-26 03:23:14',1,0.5,1);
INSERT INTO "study__epochs" VALUES(2,2,'2026-11-26 03:23:15',1,0.5,2);
CREATE TABLE "study__meta" ("ID" INTEGER PRIMARY KEY AUTOINCREMENT, "created" DATETIME DEFAULT NULL, "schema_version" INT DEFAULT NULL, "library_version" VARCHAR(255) DEFAULT NULL, "config" LONGTEXT DEFAULT NULL);
INSERT INTO "study__meta" VALUES(1,'2026-11-26 03:23:14.232',1,'2.0.0.dev0','{"PY_EXPERIMENTER": {"Execution": {"isolation": "none"}, "Database": {"provider": "sqlite", "database": "study", "table": {"name": "study", "keyfields": {"dataset": {"type": "VARCHAR(50)", "values": ["iris", "wine"]}, "seed": {"type": "INT", "values": {"start": 0, "stop": 3}}}, "resultfields": {"accuracy": "DOUBLE", "model": "LONGTEXT"}}, "logtables": {"epochs": {"epoch": "INT", "loss": "DOUBLE"}}}}}');
CREATE INDEX "study__status" ON "study" ("status", "ID");
CREATE UNIQUE INDEX "study__identity" ON "study" (ifnull("dataset", 0) COLLATE BINARY, ifnull("seed", 0) COLLATE BINARY, ("dataset" IS NULL) || ("seed" IS NULL));
CREATE INDEX "study__attempts__experiment" ON "study__attempts" ("experiment_id");
CREATE INDEX "study__attempts__open" ON "study__attempts" (ended, lease_until);
CREATE INDEX "study__epochs__experiment" ON "study__epochs" ("experiment_id");
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('study__meta',1);
INSERT INTO "sqlite_sequence" VALUES('study',6);
INSERT INTO "sqlite_sequence" VALUES('study__attempts',3);
INSERT INTO "sqlite_sequence" VALUES('study__epochs',2);
COMMIT;
