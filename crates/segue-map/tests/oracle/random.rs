//! Random calls: mostly sensible, some not, drawn from a seed.

use segue_map::entry::{ERROR, NO_WRITE, VALID, ZERO};
use segue_map::{BlockRun, ContainerSpec, Control, EntryRun, HostOp};

use crate::Pair;
use crate::model::Ending;

pub const DISKS: [u32; 3] = [3, 7, 9];
pub const QUIESCES: u64 = 3;
/// What disks have beyond their last whole segment.
const ODD_ENDS: [u64; 3] = [512, 4096, 777];
const SEGMENT: u64 = 8192;

#[derive(Debug)]
pub struct Call {
    pub now: u64,
    pub what: What,
    /// The driver takes no effects before the next call has let time pass.
    pub effects_wait: bool,
}

#[derive(Debug)]
pub enum What {
    HostIo {
        token: u64,
        disk: u32,
        op: HostOp,
        offset: u64,
        len: u64,
        flags: u16,
    },
    Gone {
        token: u64,
    },
    Done {
        index: usize,
        ending: Ending,
    },
    Control(Control),
    Lease {
        until: u64,
    },
    EndLease,
    List,
    Nothing,
}

pub struct Random {
    state: u64,
    now: u64,
    token: u64,
    command: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            now: 0,
            token: 0,
            command: 0,
        }
    }

    /// Splitmix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..bound.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Time while everything is brought to an end.
    pub fn settle_now(&mut self) -> u64 {
        self.now
    }

    pub fn call(&mut self, pair: &Pair) -> Call {
        self.now += self.below(12);
        let what = match self.below(100) {
            0..35 => self.host_io(),
            35..60 => self.done(pair),
            60..63 => self.gone(pair),
            63..79 => self.fault_answer(pair),
            79..94 => self.command(pair),
            94..97 => self.lease(),
            97 if self.chance(4) => What::EndLease,
            98 => What::List,
            _ => What::Nothing,
        };
        Call {
            now: self.now,
            what,
            effects_wait: self.chance(15),
        }
    }

    fn lease(&mut self) -> What {
        let bound = self.pick(&[100, 900]);
        What::Lease {
            until: self.now + self.below(bound),
        }
    }

    fn host_io(&mut self) -> What {
        use HostOp::{BlockStatus, Flush, Read, Trim, Write, WriteZeroes};
        self.token += 1;
        let ops = [
            Read,
            Read,
            Write,
            Write,
            Write,
            WriteZeroes,
            WriteZeroes,
            Trim,
            Flush,
        ];
        let op = if self.chance(12) {
            BlockStatus
        } else {
            self.pick(&ops)
        };
        let grain = self.pick(&[1, 512, 512, 2048, 8192]);
        let mut offset = self.below(5 * SEGMENT / grain) * grain;
        let len = match self.below(10) {
            0 => self.below(4 * SEGMENT),
            1 => (1 + self.below(3)) * SEGMENT,
            // A short last segment, as a whole.
            2 => {
                offset = (4 + self.below(3)) * SEGMENT;
                self.pick(&ODD_ENDS)
            }
            _ => (1 + self.below(SEGMENT / grain).min(5)) * grain,
        };
        let flags = match self.below(4) {
            0 => (self.next() & 0x1f) as u16,
            _ => 0,
        };
        What::HostIo {
            token: self.token,
            disk: self.pick(&DISKS),
            op,
            offset,
            len,
            flags,
        }
    }

    fn done(&mut self, pair: &Pair) -> What {
        if pair.running.is_empty() {
            return What::Nothing;
        }
        let index = self.below(pair.running.len() as u64) as usize;
        let errno = self.pick(&[5, 28, 95]);
        let ending = match self.below(75) {
            0..3 => Ending::Done(errno),
            3 => Ending::Refused(errno),
            4..6 => Ending::NotBegun,
            _ => Ending::Done(0),
        };
        What::Done { index, ending }
    }

    fn gone(&mut self, pair: &Pair) -> What {
        let tokens: Vec<u64> = pair.tokens.keys().copied().collect();
        if tokens.is_empty() || self.chance(10) {
            return What::Gone {
                token: self.below(self.token + 1),
            };
        }
        What::Gone {
            token: self.pick(&tokens),
        }
    }

    /// A word that is mostly a good entry.
    fn word(&mut self) -> u64 {
        let container = 1 + self.below(3);
        let place = VALID | container << 44 | self.below(20);
        match self.below(20) {
            0 => 0,
            1 => VALID | ZERO,
            2 => VALID | ERROR,
            3..6 => place | NO_WRITE,
            6 => place | ZERO | NO_WRITE,
            7 if self.chance(8) => VALID | 9 << 44 | self.below(40),
            8 if self.chance(8) => self.next(),
            9 if self.chance(8) => VALID | container << 44 | ((1 << 44) - 1),
            _ => place,
        }
    }

    fn entry_run(&mut self) -> EntryRun {
        let (first, count) = self.run();
        EntryRun {
            first,
            count,
            word: self.word(),
            step: u64::from(self.chance(3)),
        }
    }

    fn run(&mut self) -> (u64, u64) {
        match self.below(30) {
            0 => (self.below(9), 0),
            1 => (self.below(9), u64::MAX - self.below(9)),
            2 => (self.next(), 1),
            _ => (self.below(6), 1 + self.below(3)),
        }
    }

    fn entry_runs(&mut self) -> Vec<EntryRun> {
        (0..1 + self.below(2)).map(|_| self.entry_run()).collect()
    }

    fn fault_answer(&mut self, pair: &Pair) -> What {
        let faults: Vec<u64> = pair.oracle.faults.keys().copied().collect();
        let failed: Vec<u64> = pair.oracle.failed.values().copied().collect();
        let request = match self.below(12) {
            0 => self.below(60),
            1 if !failed.is_empty() => self.pick(&failed),
            _ if faults.is_empty() => return What::Nothing,
            _ => self.pick(&faults),
        };
        let disk = pair
            .oracle
            .faults
            .get(&request)
            .map_or(3, |fault| fault.info.disk);
        What::Control(match self.below(10) {
            0..3 => self.retry(pair, request, disk),
            3 => Control::Failure {
                request,
                errno: self.pick(&[0, 5, 28]),
                set_error: self.chance(2),
            },
            4..6 => Control::CompleteToHost { request },
            6..8 => self.do_write(request),
            _ => self.do_split_read(pair, request),
        })
    }

    fn retry(&mut self, pair: &Pair, request: u64, disk: u32) -> Control {
        let mut runs = if self.chance(4) {
            self.entry_runs()
        } else {
            Vec::new()
        };
        if let Some(fault) = pair
            .oracle
            .faults
            .get(&request)
            .filter(|_| !self.chance(10))
        {
            let (first, count) = (fault.info.segment, fault.info.segments);
            let container = 1 + self.below(2);
            let word = self.pick(&[VALID | container << 44 | 3, VALID | ZERO]);
            runs = vec![EntryRun {
                first,
                count,
                word,
                step: 0,
            }];
        }
        let disk = if self.chance(20) {
            self.pick(&DISKS)
        } else {
            disk
        };
        Control::Retry {
            request,
            disk,
            runs,
        }
    }

    fn next_command(&mut self) -> u64 {
        self.command += 1;
        self.command
    }

    /// A location a `do_*` may name.
    fn location(&mut self) -> u64 {
        if self.chance(12) {
            self.word()
        } else {
            VALID | (1 + self.below(2)) << 44 | self.below(20)
        }
    }

    fn do_write(&mut self, request: u64) -> Control {
        let (command, location) = (self.next_command(), self.location());
        let head = if self.chance(2) { 0 } else { self.location() };
        let tail = if self.chance(2) { 0 } else { self.location() };
        Control::DoWrite {
            command,
            request,
            location,
            head,
            tail,
        }
    }

    fn do_split_read(&mut self, pair: &Pair, request: u64) -> Control {
        let command = self.next_command();
        let mut runs = Vec::new();
        if let Some(fault) = pair.oracle.faults.get(&request) {
            let (mut next, mut left) = (fault.info.first_block, fault.info.count_blocks);
            while left > 0 {
                let count = (1 + self.below(5)).min(left);
                let location = if self.chance(3) { 0 } else { self.location() };
                runs.push(BlockRun {
                    first_block: next,
                    count_blocks: count,
                    location,
                });
                (next, left) = (next + count, left - count);
            }
            if self.chance(10) {
                runs.pop();
            }
            if self.chance(20) && !runs.is_empty() {
                runs[0].count_blocks = self.pick(&[0, 1, u64::MAX]).min(40);
            }
        }
        Control::DoSplitRead {
            command,
            request,
            runs,
        }
    }

    fn containers(&mut self) -> Vec<ContainerSpec> {
        let mut specs: Vec<ContainerSpec> = Vec::new();
        for (container, write_unit_bytes) in [(2, 2048), (1, 1), (3, 512)] {
            if self.chance(30) {
                continue;
            }
            specs.push(ContainerSpec {
                container,
                uri: String::new(),
                identity: [0; 16],
                segment_bytes: if self.chance(60) { 4096 } else { SEGMENT },
                segments: if self.chance(15) { 10 } else { 20 },
                cache: String::new(),
                write_unit_bytes: if self.chance(60) { 3 } else { write_unit_bytes },
                failed: self.chance(150),
            });
        }
        if self.chance(40) && !specs.is_empty() {
            specs.push(specs[0].clone());
        }
        specs
    }

    fn size(&mut self) -> u64 {
        match self.below(10) {
            0 if self.chance(3) => 0,
            1 => 1 + self.below(6 * SEGMENT),
            2..6 => (4 + self.below(3)) * SEGMENT + self.pick(&ODD_ENDS),
            _ => (4 + self.below(3)) * SEGMENT,
        }
    }

    fn command(&mut self, pair: &Pair) -> What {
        let command = self.next_command();
        let blocking = self.chance(2);
        let without = DISKS
            .into_iter()
            .find(|disk| pair.oracle.live(*disk).is_none());
        let disk = without
            .filter(|_| self.chance(2))
            .unwrap_or_else(|| self.pick(&DISKS));
        let missing = pair.oracle.live(disk).is_none();
        let choice = if missing && !self.chance(6) {
            0
        } else {
            self.below(40)
        };
        What::Control(match choice {
            0..2 => Control::NewTable {
                command,
                disk,
                size_bytes: self.size(),
                segment_bytes: if self.chance(30) { 6000 } else { SEGMENT },
                block_bytes: self.pick(&[512, 512, 512, 4096, 4096, 1024]),
                read_only: self.chance(50),
                containers: self.containers(),
            },
            2 if self.chance(2) => Control::DeleteTable { command, disk },
            3 => Control::ResizeTable {
                command,
                disk,
                size_bytes: self.size(),
                blocking,
            },
            4..7 => {
                let (first, count) = self.run();
                Control::GetEntry {
                    command,
                    disk,
                    first,
                    count,
                }
            }
            7..20 => {
                let mut runs = self.entry_runs();
                if self.chance(3) {
                    runs = vec![EntryRun {
                        first: 0,
                        count: 4,
                        word: VALID | 1 << 44,
                        step: 1,
                    }];
                }
                Control::SetEntry {
                    command,
                    disk,
                    runs,
                    blocking,
                }
            }
            20..28 => {
                let (first, count) = self.run();
                let whole_table = self.chance(4);
                let clear_no_write = self.chance(4);
                let flags = if clear_no_write && !self.chance(9) {
                    0
                } else {
                    self.flags()
                };
                Control::SetEntryState {
                    command,
                    disk,
                    first,
                    count,
                    flags,
                    clear_no_write,
                    whole_table,
                    blocking,
                }
            }
            28..32 => Control::SetContainers {
                command,
                disk,
                containers: self.containers(),
            },
            32..34 => Control::Quiesce {
                command,
                disk,
                quiesce: self.below(QUIESCES),
                drain_ns: self.below(120),
                hold_ns: self.below(200),
            },
            _ => Control::Activate {
                command,
                disk,
                quiesce: self.below(QUIESCES),
            },
        })
    }

    fn flags(&mut self) -> u8 {
        if self.chance(8) {
            (self.next() & 31) as u8
        } else {
            self.pick(&[1, 2, 4, 8, 8, 8])
        }
    }
}
