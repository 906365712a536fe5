#include "server/complete.hpp"

#include "server/answer.hpp"
#include "server/inbox.hpp"

namespace serve {
namespace {

// A place in the scheduler, given back when its owner leaves, however it leaves.
class Place {
 public:
  Place(Scheduler& scheduler, const Job& job, Inbox& inbox)
      : scheduler_(scheduler), ticket_(scheduler.submit(job, inbox.sink())) {}
  ~Place() { scheduler_.cancel(ticket_); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

 private:
  Scheduler& scheduler_;
  const Scheduler::Ticket ticket_;
};

// Notices that the client hangs up while nothing is read from it. Ends when its owner does; a client that sends the
// next request early is not watched any more.
class Watch {
 public:
  Watch(Connection& connection, std::shared_ptr<Inbox> inbox) : socket_(connection.stream.socket()) {
    socket_.async_wait(tcp::socket::wait_read, [this, over = over_, inbox](beast::error_code) {
      if (!*over && hung_up()) inbox->leave();
    });
  }
  ~Watch() {
    *over_ = true;
    beast::error_code ignored;
    socket_.cancel(ignored);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  bool hung_up() {
    char byte;
    beast::error_code code;
    const std::size_t count = socket_.receive(net::buffer(&byte, 1), net::socket_base::message_peek, code);
    return code ? code != net::error::would_block : count == 0;
  }

  tcp::socket& socket_;
  std::shared_ptr<bool> over_ = std::make_shared<bool>(false);
};

struct Exchange {
  Connection& connection;
  Service& service;
  const Request& request;
  const Completion& completion;
  Inbox& inbox;
  Answer& answer;
};

bool take_all(Answer& answer, const std::vector<Event>& events) {
  for (const Event& event : events) answer.take(event);
  return !events.empty();
}

Json whole(Answer& answer) {
  Json json = completion_json(answer.label(), answer.next());
  json["usage"] = answer.usage();
  return json;
}

// A piece for all that has come; then, at the end, what ends a stream.
std::string events_of(Answer& answer, const Completion& completion) {
  std::string text;
  const Piece piece = answer.next();
  if (!piece.tokens.empty()) text += sse(dump(completion_json(answer.label(), piece)));
  if (answer.error()) return text + sse(dump(to_json(*answer.error())));
  if (!answer.over()) return text;
  if (completion.include_usage) {
    Json json = completion_json(answer.label(), {});
    json["choices"] = Json::array();
    json["usage"] = answer.usage();
    text += sse(dump(json));
  }
  return text + sse("[DONE]");
}

// The first events are here already: an answer that begins with an error has a status of its own.
net::awaitable<bool> stream_answer(const Exchange& exchange) {
  Pieces pieces(exchange.connection, exchange.service.options, exchange.request);
  const bool keep_alive = exchange.request.keep_alive() && !exchange.service.stopping;
  co_await pieces.open("text/event-stream", keep_alive);
  while (true) {
    co_await pieces.write(events_of(exchange.answer, exchange.completion));
    if (exchange.answer.over()) break;
    if (!take_all(exchange.answer, co_await exchange.inbox.wait())) co_return false;
  }
  co_await pieces.close();
  co_return keep_alive&& pieces.delimited() && !exchange.answer.error();
}

net::awaitable<bool> answer_whole(const Exchange& exchange) {
  Answer& answer = exchange.answer;
  while (!answer.over())
    if (!take_all(answer, co_await exchange.inbox.wait())) co_return false;
  const bool keep_alive = exchange.request.keep_alive() && !exchange.service.stopping;
  const Reply reply = answer.error() ? error_reply(*answer.error()) : Reply{200, whole(answer), ""};
  co_await write_reply(exchange.connection, exchange.service.options, reply, keep_alive);
  co_return keep_alive;
}

}  // namespace

net::awaitable<bool> complete(Connection& connection, Service& service, const Request& request) {
  const Completion completion = parse_completion(request.body(), service.model);
  const auto inbox = std::make_shared<Inbox>(service.io);
  const Place place(service.scheduler, completion.job, *inbox);
  Answer answer(completion, service.model);
  const Watch watch(connection, inbox);
  const Exchange exchange{connection, service, request, completion, *inbox, answer};
  if (!take_all(answer, co_await inbox->wait())) co_return false;
  if (completion.stream && !answer.error()) co_return co_await stream_answer(exchange);
  co_return co_await answer_whole(exchange);
}

}  // namespace serve
