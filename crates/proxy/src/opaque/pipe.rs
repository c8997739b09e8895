//! Moves bytes between sockets through a pipe, so that they never leave the kernel.
//!
//! Measured per byte this costs a half to a quarter of reading and writing. It pays for
//! bulk only, so a direction takes a pipe when a whole buffer came in at once, and gives it
//! back when nothing more is there. Linux only: elsewhere, and in a simulated network, there is
//! no pipe to be had.

#[cfg(all(target_os = "linux", not(feature = "simulation")))]
pub(super) use linux::{Pipe, is_unsupported, splice_in, splice_out};
#[cfg(not(all(target_os = "linux", not(feature = "simulation"))))]
pub(super) use other::{Pipe, is_unsupported, splice_in, splice_out};

#[cfg(all(target_os = "linux", not(feature = "simulation")))]
mod linux {
    use std::cell::{Cell, RefCell};
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::io::Errno;
    use rustix::pipe::{
        PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
    };

    /// Most pipes in use per thread; each has two descriptors and up to [`PIPE_BYTES`].
    const PIPES_MAX: usize = 64;

    /// Empty pipes that a thread keeps for later.
    const KEPT_MAX: usize = 8;

    /// What a pipe is asked to hold. A user without privileges gets 64 MiB of it all in
    /// all, after which the kernel gives less.
    const PIPE_BYTES: usize = 256 << 10;

    /// A pipe that holds less is not worth its system calls.
    const PIPE_BYTES_MIN: usize = 64 << 10;

    #[derive(Debug)]
    struct Ends {
        read: OwnedFd,
        write: OwnedFd,
        capacity: usize,
    }

    /// A pipe in use. Dropping it closes it with what it holds.
    #[derive(Debug)]
    pub(in crate::opaque) struct Pipe(Option<Ends>);

    thread_local! {
        static KEPT: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
        static IN_USE: Cell<usize> = const { Cell::new(0) };
        static UNSUPPORTED: Cell<bool> = const { Cell::new(false) };
    }

    impl Pipe {
        /// Takes an empty pipe. None if there are too many in use, or no descriptors left.
        pub(in crate::opaque) fn take() -> Option<Self> {
            if IN_USE.get() >= PIPES_MAX || UNSUPPORTED.get() {
                return None;
            }
            let ends = KEPT.with_borrow_mut(Vec::pop).or_else(Ends::open)?;
            IN_USE.set(IN_USE.get() + 1);
            Some(Self(Some(ends)))
        }

        /// Gives a pipe back that holds nothing.
        pub(in crate::opaque) fn give_back(mut self) {
            KEPT.with_borrow_mut(|kept| {
                if kept.len() < KEPT_MAX {
                    kept.extend(self.0.take());
                }
            });
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            IN_USE.set(IN_USE.get() - 1);
        }
    }

    impl Ends {
        fn open() -> Option<Self> {
            let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
            let capacity = fcntl_setpipe_size(&write, PIPE_BYTES)
                .or_else(|_| fcntl_getpipe_size(&write))
                .ok()?;
            let ends = Self {
                read,
                write,
                capacity,
            };
            (capacity >= PIPE_BYTES_MIN).then_some(ends)
        }
    }

    /// What `splice` says, moving nothing, where it is not to be had.
    const UNSUPPORTED_BY: [Errno; 3] = [Errno::INVAL, Errno::NOSYS, Errno::PERM];

    /// Says whether an error is none of the connection's.
    pub(in crate::opaque) fn is_unsupported(error: &io::Error) -> bool {
        Errno::from_io_error(error).is_some_and(|error| UNSUPPORTED_BY.contains(&error))
    }

    /// Moves bytes from a socket into an empty pipe; 0 says that the peer has ended.
    pub(in crate::opaque) fn splice_in(from: impl AsFd, pipe: &Pipe) -> io::Result<usize> {
        let Some(ends) = &pipe.0 else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let result = splice(from, None, &ends.write, None, ends.capacity, flags);
        if result.is_err_and(|error| UNSUPPORTED_BY.contains(&error)) {
            // This kernel, or its sandbox, will not do so later either.
            UNSUPPORTED.set(true);
        }
        Ok(result?)
    }

    /// Moves up to `length` bytes from a pipe to a socket.
    pub(in crate::opaque) fn splice_out(
        pipe: &Pipe,
        to: impl AsFd,
        length: usize,
    ) -> io::Result<usize> {
        let Some(ends) = &pipe.0 else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        Ok(splice(&ends.read, None, to, None, length, flags)?)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn pipes_are_bounded_and_come_back() {
            let mut pipes: Vec<Pipe> = std::iter::from_fn(Pipe::take).collect();
            assert_eq!(pipes.len(), PIPES_MAX);
            pipes.pop().unwrap().give_back();
            assert_eq!(KEPT.with_borrow(Vec::len), 1);
            pipes.push(Pipe::take().unwrap());
            assert!(Pipe::take().is_none());
            drop(pipes.pop());
            for pipe in pipes {
                pipe.give_back();
            }
            assert_eq!(KEPT.with_borrow(Vec::len), KEPT_MAX);
            assert_eq!(IN_USE.get(), 0);
        }
    }
}

#[cfg(not(all(target_os = "linux", not(feature = "simulation"))))]
mod other {
    use std::io;

    /// There is none.
    #[derive(Debug)]
    pub(in crate::opaque) enum Pipe {}

    impl Pipe {
        pub(in crate::opaque) const fn take() -> Option<Self> {
            None
        }

        pub(in crate::opaque) const fn give_back(self) {}
    }

    pub(in crate::opaque) const fn is_unsupported(_error: &io::Error) -> bool {
        false
    }

    pub(in crate::opaque) fn splice_in(
        _from: &crate::net::TcpStream,
        pipe: &Pipe,
    ) -> io::Result<usize> {
        match *pipe {}
    }

    pub(in crate::opaque) fn splice_out(
        pipe: &Pipe,
        _to: &crate::net::TcpStream,
        _length: usize,
    ) -> io::Result<usize> {
        match *pipe {}
    }
}
