//! Errors on the wire ([`Errno`]) and breaches of the protocol ([`ProtocolError`]).

use core::fmt;

/// The errors a reply may carry ("Error values"); the wire knows no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Operation not permitted: a write to a read-only export.
    Eperm = 1,
    /// Input/output error.
    Eio = 5,
    /// Out of memory; the document asks servers to avoid it.
    Enomem = 12,
    /// The request is not valid.
    Einval = 22,
    /// No space left, or a write beyond the end.
    Enospc = 28,
    /// Only for a READ with DF that is too long for one chunk.
    Eoverflow = 75,
    /// Only for a WRITE_ZEROES with FAST_ZERO that would not be fast.
    Enotsup = 95,
    /// The server is shutting down.
    Eshutdown = 108,
}

impl Errno {
    /// The number on the wire.
    #[must_use]
    pub fn wire(self) -> u32 {
        self as u32
    }

    /// Reads a nonzero error word. Values the document does not know count as `EINVAL`, as it
    /// asks of clients.
    #[must_use]
    pub fn from_wire(value: u32) -> Errno {
        match value {
            1 => Errno::Eperm,
            5 => Errno::Eio,
            12 => Errno::Enomem,
            28 => Errno::Enospc,
            75 => Errno::Eoverflow,
            95 => Errno::Enotsup,
            108 => Errno::Eshutdown,
            _ => Errno::Einval,
        }
    }

    /// Folds an error number of Linux into what may be sent: EDQUOT (122) and EFBIG (27) become
    /// `ENOSPC`, EROFS (30) and EACCES (13) `EPERM`, EOPNOTSUPP (95) and the rest `EIO`.
    ///
    /// `ENOTSUP` and `EOVERFLOW` are never made here, because the document allows each in answer
    /// to one kind of request only; a server that means them says so itself.
    #[must_use]
    pub fn from_linux(value: i32) -> Errno {
        match value {
            1 | 13 | 30 => Errno::Eperm,
            12 => Errno::Enomem,
            22 => Errno::Einval,
            27 | 28 | 122 => Errno::Enospc,
            108 => Errno::Eshutdown,
            _ => Errno::Eio,
        }
    }

    /// The name, as in errno(3).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Errno::Eperm => "EPERM",
            Errno::Eio => "EIO",
            Errno::Enomem => "ENOMEM",
            Errno::Einval => "EINVAL",
            Errno::Enospc => "ENOSPC",
            Errno::Eoverflow => "EOVERFLOW",
            Errno::Enotsup => "ENOTSUP",
            Errno::Eshutdown => "ESHUTDOWN",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The peer broke the protocol, or asked for what can only be refused by hanging up. The
/// connection is over: the driver logs this one sentence and closes the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// Server: the client set handshake flags that were not offered.
    ClientFlags(u32),
    /// Server: an option did not begin with IHAVEOPT.
    OptionMagic(u64),
    /// Server: an option's data is too long to skip.
    OptionTooLong {
        /// The option's number.
        option: u32,
        /// The length it claimed, in bytes.
        length: u32,
    },
    /// Server: the client has sent more options than is borne.
    TooManyOptions,
    /// Server: without fixed newstyle only `OPT_EXPORT_NAME` may be sent.
    OptionNotFixed(u32),
    /// Server: `OPT_EXPORT_NAME` cannot be answered with an error, so the session ends.
    ExportNameRefused,
    /// Server: a request did not begin with its magic.
    RequestMagic(u32),
    /// Server: a WRITE is too long even to be thrown away.
    PayloadTooLong(u32),
    /// The peer closed the stream inside a message.
    Truncated,
    /// Client: the greeting is not that of an NBD server.
    NotNbd(u64),
    /// Client: the server speaks oldstyle only.
    Oldstyle,
    /// Client: the server does not offer fixed newstyle, which this needs.
    NotFixedNewstyle,
    /// Client: a reply to an option did not begin with its magic.
    OptionReplyMagic(u64),
    /// Client: a reply to an option that was not asked.
    OptionReplyStray(u32),
    /// Client: a reply to an option has a type or length that does not fit the option.
    OptionReplyInvalid {
        /// The option's number.
        option: u32,
        /// The reply's type.
        reply: u32,
        /// The reply's length, in bytes.
        length: u32,
    },
    /// Client: a reply began with neither magic that is allowed here.
    ReplyMagic(u32),
    /// Client: a reply to a request that is not in flight.
    ReplyStray(u64),
    /// Client: a reply breaks the rule named here.
    ReplyInvalid {
        /// The request's cookie.
        cookie: u64,
        /// Which rule was broken.
        rule: &'static str,
    },
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ProtocolError as E;
        match *self {
            E::ClientFlags(flags) => {
                write!(
                    f,
                    "the client set handshake flags {flags:#x} that were not offered"
                )
            }
            E::OptionMagic(magic) => write!(f, "an option began with {magic:#018x}"),
            E::OptionTooLong { option, length } => {
                write!(
                    f,
                    "option {option} claims {length} bytes of data, more than is borne"
                )
            }
            E::TooManyOptions => f.write_str("more options were sent than is borne"),
            E::OptionNotFixed(option) => {
                write!(
                    f,
                    "option {option} was sent without agreeing on fixed newstyle"
                )
            }
            E::ExportNameRefused => {
                f.write_str("the export asked for by OPT_EXPORT_NAME is not available")
            }
            E::RequestMagic(magic) => write!(f, "a request began with {magic:#010x}"),
            E::PayloadTooLong(length) => {
                write!(
                    f,
                    "a write claims {length} bytes of payload, more than is borne"
                )
            }
            E::Truncated => f.write_str("the stream ended inside a message"),
            E::NotNbd(magic) => write!(f, "the server greeted with {magic:#018x}, not as NBD"),
            E::Oldstyle => f.write_str("the server speaks the oldstyle handshake only"),
            E::NotFixedNewstyle => f.write_str("the server does not offer fixed newstyle"),
            E::OptionReplyMagic(magic) => {
                write!(f, "a reply to an option began with {magic:#018x}")
            }
            E::OptionReplyStray(option) => {
                write!(
                    f,
                    "the server answered option {option}, which was not asked"
                )
            }
            E::OptionReplyInvalid {
                option,
                reply,
                length,
            } => {
                write!(
                    f,
                    "reply {reply:#x} of {length} bytes does not fit option {option}"
                )
            }
            E::ReplyMagic(magic) => write!(f, "a reply began with {magic:#010x}"),
            E::ReplyStray(cookie) => {
                write!(
                    f,
                    "a reply names request {cookie:#x}, which is not in flight"
                )
            }
            E::ReplyInvalid { cookie, rule } => {
                write!(f, "the reply to request {cookie:#x} breaks a rule: {rule}")
            }
        }
    }
}

impl core::error::Error for ProtocolError {}
