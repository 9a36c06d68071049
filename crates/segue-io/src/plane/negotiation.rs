//! Connections before their disk is agreed on: questions to the agent, its answers, and the time that
//! a handshake may take. Which connection uses which disk is counted here too.

use segue_nbd::server::{Event, Refusal, RefusalKind};
use segue_nbd::{BlockSizes, ExportInfo, Features};

use super::connection::Question;
use super::connections::Connections;
use super::executor::Executor;
use super::mailbox::{Export, PlaneEvent};
use super::stats::Stats;
use crate::sys::boottime_ns;

impl Connections {
    /// When `tick` is due.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.handshakes.first_due_ns()
    }

    /// Closes connections whose handshake has taken too long.
    pub(super) fn tick(&mut self, executor: &mut Executor) {
        if self.handshakes.first_due_ns().is_none() {
            return;
        }
        let now = boottime_ns();
        while let Some(index) = self.handshakes.overdue(now) {
            let why = format!("it has taken {} s for it", self.handshakes.limit_s());
            self.end_handshake(index, &why, executor);
        }
    }

    pub(super) fn end_handshake(&mut self, index: usize, why: &str, executor: &mut Executor) {
        if let Some(connection) = &self.slots[index] {
            crate::log(format_args!(
                "host {}: its handshake is not over, and {why}; its connection is closed",
                connection.peer
            ));
        }
        Stats::add(&executor.stats.handshakes_ended, 1);
        self.close(index, executor);
    }

    pub(super) fn handshake(&mut self, index: usize, event: Event, executor: &mut Executor) {
        let token = self.next_question;
        let Some(connection) = self.slots[index].as_deref_mut() else {
            return;
        };
        if let (Event::WantExport { .. }, Some(refusal)) =
            (&event, self.limits.refuses(&self.handshakes))
        {
            return self.tell(index, Err(refusal), executor);
        }
        let question = match event {
            Event::WantExport { name, .. } => {
                self.events.push(PlaneEvent::WantExport {
                    token,
                    name: name.clone(),
                });
                Some(Question::Export(name))
            }
            Event::WantList => {
                self.events.push(PlaneEvent::WantList { token });
                Some(Question::List)
            }
            _ => None,
        };
        connection.take_output();
        if let Some(question) = question {
            connection.question = Some((token, question));
            connection.turn = self.handshakes.asks(index, connection.turn, boottime_ns());
            self.questions.insert(token, connection.key);
            self.next_question += 1;
        }
        self.mark_dirty(index);
    }

    fn asked(&mut self, token: u64) -> Option<(usize, Question)> {
        let key = self.questions.remove(&token)?;
        let connection = self.slots[key.index].as_deref_mut()?;
        let (_, question) = connection.question.take_if(|(asked, _)| *asked == token)?;
        Some((key.index, question))
    }

    pub(super) fn export_answer(
        &mut self,
        token: u64,
        answer: Result<Export, i32>,
        executor: &mut Executor,
    ) {
        let disk = answer.as_ref().ok().map(|export| export.disk);
        if let Some(disk) = disk {
            *self.given.entry(disk).or_default() += 1;
        }
        let Some((index, Question::Export(name))) = self.asked(token) else {
            // The host has gone: nobody may be using what was attached for it.
            return disk.into_iter().for_each(|disk| self.let_go(disk, false));
        };
        let refused = disk.and_then(|disk| self.refuses(index, disk));
        match (disk, &refused) {
            (Some(disk), None) => self.hold(index, disk),
            (Some(disk), Some(_)) => self.let_go(disk, false),
            (None, _) => {}
        }
        let answer = answer.map(|export| info(name, &export)).map_err(refusal);
        self.tell(index, refused.map_or(answer, Err), executor);
    }

    /// Why a connection is not to have this disk, if so: there are too many.
    fn refuses(&self, index: usize, disk: u32) -> Option<Refusal> {
        let mine = self.slots[index].as_ref()?.disk == Some(disk);
        let users = self.users.get(&disk).copied().unwrap_or_default();
        let others = users - u32::from(mine);
        let refused = self.limits.refuses(&self.handshakes);
        refused.or_else(|| self.limits.refuses_disk(others))
    }

    /// Tells a client about the export it asked for.
    fn tell(&mut self, index: usize, answer: Result<ExportInfo, Refusal>, executor: &mut Executor) {
        let Some(connection) = self.slots[index].as_deref_mut() else {
            return;
        };
        let limited = |refusal: &&Refusal| refusal.kind == RefusalKind::Policy;
        if let Some(Refusal { message, .. }) = answer.as_ref().err().filter(limited) {
            crate::log(format_args!("host {}: refused: {message}", connection.peer));
        }
        let told = connection.server.export_answer(answer);
        connection.take_output();
        self.has_answered(index);
        self.mark_dirty(index);
        if told.is_err() {
            self.close(index, executor);
        }
    }

    /// It is the client's turn again, or the handshake is over.
    fn has_answered(&mut self, index: usize) {
        if let Some(connection) = self.slots[index].as_deref_mut() {
            let (turn, over) = (connection.turn, connection.server.is_transmission());
            connection.turn = self.handshakes.answered(index, turn, over, boottime_ns());
        }
    }

    pub(super) fn list_answer(&mut self, token: u64, names: &[String]) {
        let Some((index, Question::List)) = self.asked(token) else {
            return;
        };
        let Some(connection) = self.slots[index].as_deref_mut() else {
            return;
        };
        connection
            .server
            .list_answer(Ok(names.iter().map(|name| (name.as_str(), ""))));
        connection.take_output();
        self.has_answered(index);
        self.mark_dirty(index);
    }

    fn hold(&mut self, index: usize, disk: u32) {
        let Some(connection) = self.slots[index].as_deref_mut() else {
            return;
        };
        let before = connection.disk.replace(disk);
        *self.users.entry(disk).or_default() += 1;
        if let Some(before) = before {
            self.let_go(before, true);
        }
    }

    /// One user less (`held`), or none where there might have been one.
    pub(super) fn let_go(&mut self, disk: u32, held: bool) {
        let users = self.users.entry(disk).or_default();
        *users -= u32::from(held);
        if *users == 0 {
            self.users.remove(&disk);
            let given = self.given.get(&disk).copied().unwrap_or_default();
            self.events.push(PlaneEvent::Unused { disk, given });
        }
    }
}

fn info(name: String, export: &Export) -> ExportInfo {
    let preferred = export.block_bytes.max(4096);
    ExportInfo {
        name,
        description: String::new(),
        size_bytes: export.size_bytes,
        read_only: export.read_only,
        // A FLUSH goes to every container that any agent may have written to (design, section 3).
        can_multi_conn: true,
        block_sizes: BlockSizes::new(1, preferred, segue_nbd::consts::PAYLOAD_BYTES_MAX)
            .unwrap_or_default(),
        features: Features::DISK,
    }
}

fn refusal(errno: i32) -> Refusal {
    let (kind, message) = match errno {
        libc::ENOENT => (RefusalKind::Unknown, "no such disk"),
        libc::ESHUTDOWN => (RefusalKind::Shutdown, "the agent is shutting down"),
        libc::EPERM | libc::EACCES => (RefusalKind::Policy, "the disk may not be used here"),
        libc::ENODEV => (
            RefusalKind::Policy,
            "storage that the disk lies on is missing",
        ),
        // It is known: a client that hears otherwise says that there is no such export.
        _ => (RefusalKind::Policy, "the disk cannot be served now"),
    };
    Refusal {
        kind,
        message: message.into(),
    }
}
