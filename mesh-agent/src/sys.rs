//! The system calls of the agent: network namespaces and socket options. All `unsafe` of the proxy side is here.

mod netns_files;

pub use netns_files::{NetnsFiles, NetnsId, netns_id};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Nice value (setpriority(2)) of a thread that leaves the processor to those that carry traffic: a third of their weight.
const YIELDING: i32 = 5;

/// The calling thread, and threads that it starts from here on, leave the processor to those that carry traffic: what is
/// worked out of a change takes a millisecond, which a request must not wait for.
pub fn yield_to_traffic() {
    if let Err(error) = rustix::process::setpriority_process(None, YIELDING) {
        tracing::warn!(%error, "this thread's priority stays");
    }
}

/// A network namespace, kept alive by its open file.
#[derive(Clone, Debug)]
pub struct NetNs {
    file: Arc<File>,
    /// The process's own: nothing has to be entered.
    own: bool,
}

impl NetNs {
    /// Opens a namespace file such as `/run/netns/x` or `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(File::open(path)?),
            own: false,
        })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace of the process itself: [`NetNs::run`] stays in it and needs no privilege.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn own() -> io::Result<Self> {
        Ok(Self {
            own: true,
            ..Self::open(Path::new("/proc/self/ns/net"))?
        })
    }

    /// Runs `f` with the calling thread inside this namespace, then returns to the one it came from. `f` must not
    /// block for long and cannot be async: sockets made inside keep their namespace.
    ///
    /// # Errors
    /// `setns` fails (needs CAP_SYS_ADMIN, netns(7)), or `f` does. A thread that cannot return to its namespace
    /// would go on in the pod's, so that aborts the process.
    pub fn run<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.own {
            return f();
        }
        let home = home_netns()?;
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let result = f();
        if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot return to the agent's network namespace");
            std::process::abort();
        }
        result
    }

    /// Inode of this namespace, unique while it lives.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn inode(&self) -> io::Result<u64> {
        Ok(std::os::unix::fs::MetadataExt::ino(&self.file.metadata()?))
    }

    /// Cookie of this namespace (`SO_NETNS_COOKIE`, Linux 5.14).
    ///
    /// # Errors
    /// The kernel lacks the option.
    pub fn cookie(&self) -> io::Result<u64> {
        self.run(|| {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)
                .or_else(|_| Socket::new(Domain::IPV4, Type::DGRAM, None))?;
            socket.cookie_netns()
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

trait NetnsCookie {
    fn cookie_netns(&self) -> io::Result<u64>;
}

impl NetnsCookie for Socket {
    fn cookie_netns(&self) -> io::Result<u64> {
        const SO_NETNS_COOKIE: libc::c_int = 71;
        let mut cookie = 0u64;
        let mut len = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the buffer is 8 bytes and `len` says so; the kernel writes at most that.
        let rc = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut len,
            )
        };
        if rc == 0 {
            Ok(cookie)
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

fn home_netns() -> io::Result<BorrowedFd<'static>> {
    static HOME: std::sync::OnceLock<File> = std::sync::OnceLock::new();
    if let Some(file) = HOME.get() {
        return Ok(file.as_fd());
    }
    // Every thread starts in the process's namespace, and only `NetNs::run` leaves it, so that any thread's
    // namespace at this point is home.
    let file = File::open("/proc/self/ns/net")?;
    Ok(HOME.get_or_init(|| file).as_fd())
}

/// A listening TCP socket in the calling thread's namespace, non-blocking, close-on-exec: dual-stack where the
/// kernel has IPv6, else IPv4. It is marked as the agent's own.
///
/// # Errors
/// As socket(2), bind(2), listen(2).
pub fn listen_any(port: u16, mark: u32) -> io::Result<std::net::TcpListener> {
    listen(any(port)?, mark)
}

/// As [`listen_any`], on one address, without a mark.
///
/// # Errors
/// As socket(2), bind(2), listen(2).
pub fn listen_at(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    listen((socket, addr), 0)
}

fn any(port: u16) -> io::Result<(Socket, SocketAddr)> {
    let (socket, addr) = match Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        }
        Err(_) => (
            Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?,
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        ),
    };
    Ok((socket, addr))
}

fn listen((socket, addr): (Socket, SocketAddr), mark: u32) -> io::Result<std::net::TcpListener> {
    socket.set_reuse_address(true)?;
    // Two agents listen side by side while one takes over from the other.
    socket.set_reuse_port(true)?;
    set_mark(&socket, mark)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// A TCP socket for a connection to `dst`, in the calling thread's namespace: non-blocking, marked as the agent's
/// own, `TCP_NODELAY`, keepalive 180 s (as ztunnel). `source` binds it first, with `IP_BIND_ADDRESS_NO_PORT` so
/// that the kernel chooses the port at connect time by the whole tuple.
///
/// # Errors
/// As socket(2), bind(2).
pub fn client_socket(dst: SocketAddr, source: Option<IpAddr>, mark: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(dst), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    set_mark(&socket, mark)?;
    tune(&SockRef::from(&socket))?;
    if let Some(source) = source {
        bind_address_no_port(socket.as_fd())?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// A UDP socket bound to `addr` in the calling thread's namespace, non-blocking, marked as the agent's own. Two agents may
/// have one each while one takes over from the other.
///
/// # Errors
/// As socket(2), bind(2).
pub fn datagrams_at(addr: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    set_mark(&socket, mark)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// A UDP socket connected to `server` in the calling thread's namespace, non-blocking, marked as the agent's own.
///
/// # Errors
/// As socket(2), connect(2).
pub fn datagrams_to(server: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
    set_mark(&socket, mark)?;
    socket.set_nonblocking(true)?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}

/// A gateway marks nothing, and must not need the capability for it.
fn set_mark(socket: &Socket, mark: u32) -> io::Result<()> {
    if mark == 0 { Ok(()) } else { socket.set_mark(mark) }
}

/// Options that every proxied TCP socket gets.
///
/// # Errors
/// As setsockopt(2).
pub fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(180))
            .with_interval(Duration::from_secs(180))
            .with_retries(9),
    )
}

fn bind_address_no_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: a valid descriptor and a pointer to an int of the length given.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
