//! Connections to a store, of each kind, by the `redis` crate.

use futures_util::future::select_ok;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, TlsCertificates, TlsMode, Value,
};

use super::{Identity, Login, ServerAddress, StoreSpec, Topology};

/// Commands of one connection that the crate takes before they are written. A worker has far fewer requests that wait.
const PIPELINE: usize = 1024;

/// What connects. Made once, so that a mistake in the specification is found at load.
pub(super) enum Connector {
    Single(Client),
    Cluster(ClusterClient),
    /// Its client changes as it learns, so each connection makes one.
    Sentinel(StoreSpec),
}

/// A connection that many calls share at the same time.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(Box<ClusterConnection>),
}

impl Connector {
    pub(super) fn new(spec: &StoreSpec) -> Result<Connector, RedisError> {
        Ok(match &spec.topology {
            Topology::Single => Connector::Single(client(spec)?),
            Topology::Cluster => Connector::Cluster(cluster(spec)?),
            Topology::Sentinel { .. } => {
                spec.servers.iter().try_for_each(|server| sentinel(spec, server).map(|_| ()))?;
                Connector::Sentinel(spec.clone())
            }
        })
    }

    /// Connects and logs in. The caller bounds the time.
    pub(super) async fn connect(&self, spec: &StoreSpec) -> Result<Connection, RedisError> {
        // Each call has its own time, so the crate's are only there for what it does by itself.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(spec.connect_timeout))
            .set_response_timeout(Some(spec.connect_timeout.max(spec.timeout)))
            .set_pipeline_buffer_size(PIPELINE);
        match self {
            Connector::Single(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
            }
            Connector::Cluster(client) => {
                client.get_async_connection().await.map(|connection| Connection::Cluster(Box::new(connection)))
            }
            Connector::Sentinel(spec) => {
                // Each by itself: the crate asks one after the other, and one that hangs would take the time of all.
                let ask = |server| {
                    let config = &config;
                    Box::pin(async move { sentinel(spec, server)?.get_async_connection_with_config(config).await })
                };
                let (connection, _) = select_ok(spec.servers.iter().map(ask)).await?;
                Ok(Connection::One(connection))
            }
        }
    }
}

impl Connection {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Connection::Cluster(_))
    }

    /// Sends a command and waits for its answer, while others do the same.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = match self {
            Connection::One(connection) => connection.req_packed_command(command).await,
            Connection::Cluster(connection) => connection.req_packed_command(command).await,
        };
        // The crate takes an error of the server for an answer.
        answer?.extract_error()
    }
}

fn client(spec: &StoreSpec) -> Result<Client, RedisError> {
    let Some(server) = spec.servers.first() else { return Err(no_server()) };
    let info = server_info(server, &spec.login, spec.database)?;
    match (server, certificates(spec)) {
        (ServerAddress::Tcp { tls: true, .. }, Some(certificates)) => Client::build_with_tls(info, certificates),
        _ => Client::open(info),
    }
}

fn cluster(spec: &StoreSpec) -> Result<ClusterClient, RedisError> {
    let nodes = spec.servers.iter().map(|server| server_info(server, &spec.login, 0)).collect::<Result<Vec<_>, _>>()?;
    let mut builder = ClusterClientBuilder::new(nodes)
        // All of them are tried, at the same time: one that does not answer must leave time for what comes after.
        .connection_timeout(spec.connect_timeout / 3)
        .response_timeout(spec.timeout)
        // A redirection is one; while a node is replaced, more would only hold calls that have a time of their own.
        .retries(3)
        .min_retry_wait(5)
        .max_retry_wait(20);
    if is_tls(spec) {
        builder = builder.tls(TlsMode::Secure);
        if let Some(certificates) = certificates(spec) {
            builder = builder.certs(certificates);
        }
    }
    builder.build()
}

fn sentinel(spec: &StoreSpec, server: &ServerAddress) -> Result<SentinelClient, RedisError> {
    let Topology::Sentinel { master } = &spec.topology else { return Err(no_server()) };
    let addresses = [address(server)];
    let mut builder = SentinelClientBuilder::new(addresses, &**master, SentinelServerType::Master)?
        .set_client_to_redis_db(spec.database);
    if let Some(username) = &spec.login.username {
        builder = builder.set_client_to_redis_username(&**username);
    }
    if let Some(password) = &spec.login.password {
        builder = builder.set_client_to_redis_password(&**password);
    }
    if let Some(username) = &spec.sentinel_login.username {
        builder = builder.set_client_to_sentinel_username(&**username);
    }
    if let Some(password) = &spec.sentinel_login.password {
        builder = builder.set_client_to_sentinel_password(&**password);
    }
    // The master is spoken to as its Sentinels are.
    if is_tls(spec) {
        builder =
            builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
        if let Some(certificates) = certificates(spec) {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
    }
    builder.build()
}

fn server_info(server: &ServerAddress, login: &Login, database: i64) -> Result<ConnectionInfo, RedisError> {
    let mut redis = RedisConnectionInfo::default().set_db(database);
    if let Some(username) = &login.username {
        redis = redis.set_username(&**username);
    }
    if let Some(password) = &login.password {
        redis = redis.set_password(&**password);
    }
    Ok(address(server).into_connection_info()?.set_redis_settings(redis))
}

fn address(server: &ServerAddress) -> ConnectionAddr {
    match server {
        ServerAddress::Tcp { host, port, tls: false } => ConnectionAddr::Tcp(host.to_string(), *port),
        ServerAddress::Tcp { host, port, tls: true } => {
            ConnectionAddr::TcpTls { host: host.to_string(), port: *port, insecure: false, tls_params: None }
        }
        ServerAddress::Unix(path) => ConnectionAddr::Unix(path.clone()),
    }
}

fn is_tls(spec: &StoreSpec) -> bool {
    spec.servers.iter().any(|server| matches!(server, ServerAddress::Tcp { tls: true, .. }))
}

fn certificates(spec: &StoreSpec) -> Option<TlsCertificates> {
    let files = &spec.tls;
    if files.authorities.is_none() && files.identity.is_none() {
        return None;
    }
    let client_tls = files.identity.as_ref().map(|Identity { certificate, key }| ClientTlsConfig {
        client_cert: certificate.to_vec(),
        client_key: key.to_vec(),
    });
    Some(TlsCertificates { client_tls, root_cert: files.authorities.as_ref().map(|pem| pem.to_vec()) })
}

/// The reader of the configuration asks for a server, so this is for tests and for what may change there.
fn no_server() -> RedisError {
    RedisError::from((redis::ErrorKind::InvalidClientConfig, "no server"))
}
