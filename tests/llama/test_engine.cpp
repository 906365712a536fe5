// The engine's promises to a server, on random weights.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <vector>

#include "model.hpp"

namespace llama::test {
TEST_SUITE_BEGIN("engine");

namespace {

using Tokens = std::vector<int>;

std::unique_ptr<Engine> engine_with(int slots, int context = 64, int prefill = 8) {
  EngineOptions options;
  options.slots = slots;
  options.context = context;
  options.prefill = prefill;
  return make_engine(std::shared_ptr<const Weights>(random_weights({"tiny", false, 8, SPARLOW_F32})), options);
}

const Sampling kWarm{2.0f, 0.95f, 7};  // tokens that differ, so that a mistake shows

Tokens answer(Engine& engine, const Tokens& prompt, int tokens) {
  const int slot = engine.add(prompt, kWarm, tokens);
  Tokens out;
  for (bool last = false; !last;)
    for (const Step& step : engine.step()) out.push_back(step.token), last = step.last;
  engine.remove(slot);
  return out;
}

}  // namespace

TEST_CASE("slots that come and go answer as they do alone") {
  const std::vector<Tokens> prompts = {{1}, {5, 9, 33}, Tokens(30, 4), {60, 1, 7, 7, 200, 41}, {11, 12}};
  std::vector<Tokens> alone;
  for (const Tokens& prompt : prompts) alone.push_back(answer(*engine_with(1), prompt, 12));
  const auto engine = engine_with(2);
  std::vector<Tokens> together(prompts.size());
  std::map<int, std::size_t> prompt_of;
  std::size_t next = 0;
  for (int turn = 0; next < prompts.size() || !prompt_of.empty(); ++turn) {
    REQUIRE(turn < 200);
    if (next < prompts.size() && prompt_of.size() < 2 && turn % 3 == 0)
      prompt_of[engine->add(prompts[next], kWarm, 12)] = next, ++next;
    for (const Step& step : engine->step()) {
      together[prompt_of.at(step.slot)].push_back(step.token);
      if (step.last) engine->remove(step.slot), prompt_of.erase(step.slot);
    }
  }
  CHECK(together == alone);
}

TEST_CASE("a removed answer leaves nothing behind") {
  const auto engine = engine_with(1);
  const Tokens whole = answer(*engine, {3, 4, 5}, 10);
  const int slot = engine->add(Tokens(40, 17), kWarm, 20);
  engine->step();
  engine->remove(slot);
  CHECK(engine->step().empty());
  CHECK(answer(*engine, {3, 4, 5}, 10) == whole);
}

TEST_CASE("no more slots than there are; a done slot is kept until it is removed") {
  const auto engine = engine_with(2);
  const int first = engine->add(Tokens{1}, {}, 1);
  engine->add(Tokens{2}, {}, 2);
  CHECK_THROWS_WITH_AS(engine->add(Tokens{3}, {}, 1), "all 2 slots are taken", Full);
  CHECK(engine->step().size() == 2);
  CHECK_THROWS_AS(engine->add(Tokens{3}, {}, 1), Full);
  CHECK(engine->step().size() == 1);
  engine->remove(first);
  CHECK(engine->add(Tokens{3}, {}, 1) == first);
}

TEST_CASE("an answer ends with the context") {
  const auto engine = engine_with(1, 16);
  CHECK(engine->context() == 16);
  CHECK(answer(*engine, Tokens(10, 1), 100).size() == 6);
  CHECK(answer(*engine, Tokens(15, 1), 100).size() == 1);
  CHECK(engine_with(1, 100000)->context() == 1024);
}

TEST_CASE("what add and remove refuse") {
  const auto engine = engine_with(1, 16);
  const auto refused = [&](const Tokens& prompt, const Sampling& sampling, int tokens, const char* words) {
    CHECK_THROWS_WITH_AS(engine->add(prompt, sampling, tokens), doctest::Contains(words), std::invalid_argument);
  };
  refused({}, {}, 1, "the prompt is empty");
  refused(Tokens(16, 1), {}, 1, "the prompt has 16 tokens, the context 16");
  refused({256}, {}, 1, "token 256 is outside the vocabulary of 256");
  refused({-1}, {}, 1, "token -1");
  refused({1}, {}, 0, "max_tokens is 0");
  refused({1}, {-1, 1, 0}, 1, "temperature is -1");
  refused({1}, {NAN, 1, 0}, 1, "temperature is nan");
  refused({1}, {1, 1.5f, 0}, 1, "top_p is 1.5");
  CHECK_THROWS_WITH_AS(engine->remove(0), "slot 0 holds nothing", std::invalid_argument);
  CHECK_THROWS_AS(engine->remove(5), std::invalid_argument);
}

TEST_SUITE_END();
}  // namespace llama::test
