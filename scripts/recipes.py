"""How each of `scripts/services` is got and started. A recipe fetches what is missing, writes its files into `home`, and
gives the command; for a container, the engine's options and the command's arguments."""

import base64, contextlib, fcntl, os, re, shlex, shutil, signal, socket, subprocess, sys, tarfile, time, uuid
from pathlib import Path

KAFKA, CHDB, MOTO = "4.3.1", "26.7.3-stable.1", "5.2.5"
MOTO_NEEDS = [f"moto[s3]=={MOTO}", "boto3==1.44.8", "flask==3.1.3", "flask-cors==6.0.5", "werkzeug==3.1.9"]
FETCH_SECONDS_MAX = 900

BASE = Path(__file__).resolve().parent.parent / "target/services"
CACHE = Path(os.environ.get("STK_SERVICES_CACHE") or BASE / "cache").absolute()
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Unavailable(Exception):
    """Why a service cannot be had here, and what to install."""


def say(text):
    print(f"services: {text}", file=sys.stderr, flush=True)


def need(program, advice):
    found = shutil.which(program)
    if not found:
        raise Unavailable(f"`{program}` is missing; {advice}")
    return found


def gist(said, which):
    """The first (0) or last (-1) line that tells of an error, else the last one."""
    lines = said.strip().splitlines() or ["it said nothing"]
    return ([line for line in lines if re.search("ERROR|Error|Exception|[Ee]rror:", line)] or lines[-1:])[which]


def run(*command, **options):
    """Runs to the end; a failure carries what the command said about it."""
    try:
        done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=FETCH_SECONDS_MAX, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    if done.returncode:
        raise Unavailable(f"`{Path(command[0]).name}` failed with {done.returncode}: {gist(done.stdout, 0)}")
    return done.stdout


@contextlib.contextmanager
def locked(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def leave(number, _frame=None):
    raise SystemExit(128 + number)


@contextlib.contextmanager
def undisturbed():
    """Holds signals back where an interruption would lose a process or leave dpkg half done."""
    held = []
    before = {number: signal.signal(number, lambda got, _: held.append(got)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        leave(held[0])


def cached(name, make):
    """The directory `name` of the cache, made once; two runs at the same time make it once as well."""
    place = CACHE / name
    with locked(CACHE / f"{name}.lock"):
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            say(f"fetching {name}")
            make(place)
            (place / "complete").touch()
    return place


# Who may log in where Kafka asks for it, by PLAIN and by SCRAM.
KAFKA_USER, KAFKA_PASSWORD = "stk", "stk-secret"


def kafka(home, ports, container, classes=None):
    """`classes`: the JVM's options about the broker's classes. Mapped and not parsed, as they are unless told otherwise,
    they leave little more than half of what a start takes of the processor."""
    port, controller, sasl, tls, mutual, sasl_tls = ports
    listeners = f"PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls}," \
                f"MUTUAL://127.0.0.1:{mutual},SASLTLS://127.0.0.1:{sasl_tls}"
    certificates(home / "certs")
    login = "org.apache.kafka.common.security"
    config = home / "server.properties"
    # A killed broker may come back only when its session is over: by default that is 9 s.
    config.write_text(f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,MUTUAL:SSL,\\
    SASLTLS:SASL_SSL
inter.broker.listener.name=PLAINTEXT
listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config={login}.plain.PlainLoginModule required \\
    user_{KAFKA_USER}="{KAFKA_PASSWORD}";
listener.name.sasl.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.sasltls.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasltls.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.sasltls.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.mutual.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={home}/certs/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={home}/certs/ca.pem
log.dirs={"/tmp/kafka" if container else home / "data"}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
""")
    cluster = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
    scram = f"=[name={KAFKA_USER},password={KAFKA_PASSWORD}]"
    format_data = ["format", "-t", cluster, "-c", str(config), "--ignore-formatted", "--add-scram",
                   f"SCRAM-SHA-256{scram}", "--add-scram", f"SCRAM-SHA-512{scram}"]
    if container:
        # The image's own start can make no users, so that its scripts are called instead.
        start = f"/opt/kafka/bin/kafka-storage.sh {shlex.join(format_data)} && " \
                f"exec /opt/kafka/bin/kafka-server-start.sh {shlex.quote(str(config))}"
        return ["--user=0", "--entrypoint=/bin/sh", f"--volume={home}:{home}:ro"], ["-c", start]
    java = need("java", "Kafka 4 needs Java 17 or newer: apt-get install openjdk-17-jre-headless")
    jars = cached(f"kafka-{KAFKA}", fetch_kafka) / "lib/*"
    run(java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jars, "kafka.tools.StorageTool", *format_data)
    if classes is None:
        mapped = cached(f"kafka-{KAFKA}-classes", map_classes) / "classes.jsa"
        classes = [f"-XX:SharedArchiveFile={mapped}"] if mapped.exists() else []
    return [java, *classes, "-Xmx512m", "-XX:+UseSerialGC", "-cp", str(jars), "kafka.Kafka", str(config)]


def certificates(place):
    """An authority of this run's own, `ca.pem`, and what it vouches for: the broker, under its address and no name, and
    a client. Each in a file with its key and its certificate."""
    openssl = need("openssl", "apt-get install openssl")
    place.mkdir(exist_ok=True)
    request = [openssl, "req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    run(*request, "-x509", "-days", "30", "-subj", "/CN=stk test authority", "-keyout", "ca.key", "-out", "ca.pem",
        cwd=place)
    (place / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("broker", "client"):
        run(*request, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=place)
        run(openssl, "x509", "-req", "-days", "30", "-in", f"{name}.csr", "-extfile", "extensions", "-CA", "ca.pem",
            "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.crt", cwd=place)
        (place / f"{name}.pem").write_text((place / f"{name}.key").read_text() + (place / f"{name}.crt").read_text())


def fetch_kafka(place):
    mvn = need("mvn", "apt-get install maven")
    wanted = [("org.apache.kafka", "kafka_2.13", KAFKA), ("org.apache.kafka", "kafka-tools", KAFKA),
              ("org.slf4j", "slf4j-simple", "1.7.36")]
    dependency = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
    (place / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>stk</groupId><artifactId>services</artifactId>"
        f"<version>1</version><dependencies>{''.join(dependency.format(*one) for one in wanted)}</dependencies>"
        "</project>")
    run(mvn, "-q", "-B", "-f", place / "pom.xml", f"-DoutputDirectory={place / 'lib'}",
        "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies")


def map_classes(place):
    """Has a broker that runs for a moment write down the classes that it has loaded. Without them others start as well."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(6)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
    command = kafka(place, ports, False, [f"-XX:ArchiveClassesAtExit={place / 'classes.jsa'}"])
    with open(place / "log", "w") as log:
        broker = subprocess.Popen(command, cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                  start_new_session=True)
    try:
        until = time.monotonic() + FETCH_SECONDS_MAX
        while broker.poll() is None and time.monotonic() < until:
            if "Kafka Server started" in Path(place, "log").read_text(errors="replace"):
                break
            time.sleep(0.1)
    finally:
        broker.terminate()
        try:
            broker.wait(timeout=60)
        except subprocess.TimeoutExpired:
            broker.kill()
            broker.wait()
            (place / "classes.jsa").unlink(missing_ok=True)
    shutil.rmtree(place / "data", ignore_errors=True)


def redis(home, ports, container):
    # Append-only, so that a kill and a start keep the data. For that it need not be on the disk, for which a server on a
    # busy one would stand still.
    options = ["--port", str(ports[0]), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "no"]
    if container:
        return [], ["redis-server", *options]
    if not shutil.which("redis-server"):
        install("redis-server")
    return [need("redis-server", "apt-get install redis-server"), *options, "--dir", str(home / "data")]


def install(package):
    """From Debian, as root only, and without the daemon that the package would start."""
    if os.getuid() or not shutil.which("apt-get"):
        raise Unavailable(f"`{package}` is missing; apt-get install {package}")
    policy = Path("/usr/sbin/policy-rc.d")
    with locked(CACHE / "apt.lock"), undisturbed():
        say(f"installing {package}")
        ours = not policy.exists()
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            run("apt-get", "update", "-qq", env=env)
            run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120", package,
                env=env)
        finally:
            if ours:
                policy.unlink()


def clickhouse(home, ports, container):
    http, tcp, *shards = ports
    servers = [f"<replica><host>127.0.0.1</host><port>{port}</port></replica>" for port in shards]
    # The same servers as shards, and as one shard's replicas, which stk refuses.
    cluster = (f"<remote_servers><stk>{''.join(f'<shard>{server}</shard>' for server in servers)}</stk>"
               f"<stk_replicas><shard>{''.join(servers)}</shard></stk_replicas></remote_servers>")
    log = "<level>warning</level>" if container else f"<log>{home}/server.log</log>"
    unwanted = "".join(f'<{port}_port remove="1"/>' for port in ("mysql", "postgresql", "interserver_http"))
    config = home / "config.xml"
    # Caches and pools are small: the tests need the machine themselves. The limits of merge_tree follow the pool, since
    # a server refuses more than it has threads for.
    config.write_text(f"""<clickhouse>
<logger>{log}</logger>
<listen_host>127.0.0.1</listen_host><http_port>{http}</http_port><tcp_port>{tcp}</tcp_port>
{unwanted if container else ""}
<max_server_memory_usage_to_ram_ratio>0.25</max_server_memory_usage_to_ram_ratio>
<mark_cache_size>67108864</mark_cache_size><uncompressed_cache_size>0</uncompressed_cache_size>
<index_mark_cache_size>16777216</index_mark_cache_size><mmap_cache_size>100</mmap_cache_size>
<background_pool_size>2</background_pool_size><background_schedule_pool_size>4</background_schedule_pool_size>
<background_move_pool_size>1</background_move_pool_size><background_fetches_pool_size>1</background_fetches_pool_size>
<background_common_pool_size>2</background_common_pool_size>
<merge_tree>
<number_of_free_entries_in_pool_to_execute_mutation>2</number_of_free_entries_in_pool_to_execute_mutation>
<number_of_free_entries_in_pool_to_lower_max_size_of_merge>2</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
<number_of_free_entries_in_pool_to_execute_optimize_entire_partition>2</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
</merge_tree>
{cluster if shards else ""}
{"" if container else f"<users_config>{home}/users.xml</users_config>"}
</clickhouse>
""")
    # A user who may not add columns, for a database of its own.
    restricted = ("<restricted><password>restricted</password><networks><ip>::/0</ip></networks><profile>default</profile>"
                  "<quota>default</quota><grants><query>GRANT CREATE DATABASE, SELECT, INSERT, CREATE TABLE, CREATE VIEW, "
                  "ALTER DELETE ON stk_restricted.*</query><query>GRANT SELECT ON system.parts</query>"
                  "<query>GRANT TABLE ENGINE ON *</query></grants></restricted>")
    default = ("<default><password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>"
               "</default>")
    users = home / "users.xml"
    if container:
        users.write_text(f"<clickhouse><users>{restricted}</users></clickhouse>")
        return ["--env=CLICKHOUSE_SKIP_USER_SETUP=1",
                f"--volume={config}:/etc/clickhouse-server/config.d/stk.xml:ro",
                f"--volume={users}:/etc/clickhouse-server/users.d/stk.xml:ro"], []
    users.write_text(f"<clickhouse><profiles><default/></profiles><quotas><default/></quotas>"
                     f"<users>{default}{restricted}</users></clickhouse>")
    if (os.uname().sysname, os.uname().machine) != ("Linux", "x86_64"):
        raise Unavailable("its package is for Linux on x86-64; install a container engine")
    library = cached(f"clickhouse-{CHDB}", fetch_clickhouse) / "libchdb.so"
    serve = ("SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; SELECT sleepEachRow(1) FROM system.numbers "
             "SETTINGS max_block_size=1, function_sleep_max_microseconds_per_block=0 FORMAT Null")
    return [sys.executable, str(Path(__file__).with_name("services")), "clickhouse", str(library),
            "--path", str(home / "data"), "--config-file", str(config), "--log-level", "warning",
            "--listen_host", "127.0.0.1", "--http_port", str(http), "--tcp_port", str(tcp), "--query", serve]


def fetch_clickhouse(place):
    # The library of chdb is a whole ClickHouse, the only one in a package registry.
    npm = need("npm", "apt-get install npm")
    run(npm, "pack", "--silent", "--pack-destination", place, f"@chdb/lib-linux-x64-gnu@{CHDB}")
    package = next(place.glob("*.tgz"))
    with tarfile.open(package) as files, open(place / "libchdb.so", "wb") as library:
        shutil.copyfileobj(files.extractfile("package/libchdb.so"), library)
    package.unlink()


def become_clickhouse(library, *arguments):
    """Never returns: this process is the server from here on."""
    import ctypes
    arguments = [b"clickhouse", *map(os.fsencode, arguments)]
    serve = ctypes.CDLL(library).query_stable_v2
    serve.restype = ctypes.POINTER(ctypes.c_char_p)
    # A result begins with six words of eight bytes; the seventh is the error.
    sys.exit(os.fsdecode(serve(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))[6] or b"the server ended"))


def s3(home, ports, container):
    # Everything is in memory: after a kill it comes back empty. For an outage that keeps data, stop and continue its
    # process by SIGSTOP and SIGCONT.
    options = ["-H", "127.0.0.1", "-p", str(ports[0])]
    if container:
        return [], options
    return [str(cached(f"moto-{MOTO}", fetch_moto) / "bin/python"), "-c", ATOMIC_MOTO, *options]


# S3 looks at a write's condition and writes in one step. moto may answer another request in between, so that of two who
# create an object both do.
ATOMIC_MOTO = """
import functools, threading
from moto.s3.responses import S3Response
from moto.server import main

put, one_at_a_time = S3Response.put_object, threading.Lock()

@functools.wraps(put)
def put_object(self):
    with one_at_a_time:
        return put(self)

S3Response.put_object = put_object
main()
"""


def fetch_moto(place):
    run(sys.executable, "-m", "venv", place)
    run(place / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *MOTO_NEEDS)


def postgres(home, ports, container):
    options = ["-p", str(ports[0]), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    if container:
        return ["--env=POSTGRES_HOST_AUTH_METHOD=trust"], options
    binaries = Path("/usr/lib/postgresql/15/bin")
    if not binaries.is_dir():
        raise Unavailable(f"{binaries} is missing; apt-get install postgresql-15")
    data, user = home / "data", []
    if os.getuid() == 0:
        # It refuses to run as root.
        name = "postgres"
        user = [need("setpriv", "apt-get install util-linux"), "--reuid", name, "--regid", name, "--init-groups"]
        shutil.chown(data, name, name)
    run(*user, binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", cwd=data)
    return [*user, str(binaries / "postgres"), "-D", str(data), *options]


HTTP = "http://127.0.0.1:{}"
# Recipe, image, and what a test needs to connect.
SERVICES = {
    "kafka": (kafka, f"apache/kafka:{KAFKA}", "127.0.0.1:{}"),
    "redis": (redis, "redis:7", "redis://127.0.0.1:{}"),
    "clickhouse": (clickhouse, "clickhouse/clickhouse-server:26.7", HTTP),
    "clickhouse-2": (clickhouse, "clickhouse/clickhouse-server:26.7", HTTP),
    "s3": (s3, f"motoserver/moto:{MOTO}", HTTP),
    "postgres": (postgres, "postgres:15", "postgres://postgres@127.0.0.1:{}/postgres"),
}
