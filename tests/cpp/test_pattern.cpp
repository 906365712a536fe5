#include "sparlow/pattern.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("pattern");

TEST_CASE("accepted texts survive a round trip") {
  for (const std::string text :
       {"dense", "1:2", "2:4", "2:8", "4:8", "5:12", "255:256", "0.5@row", "0.25@matrix", "0.1@row"})
    CHECK(Pattern::parse(text).str() == text);
  const Pattern groups = Pattern::parse("2:8");
  CHECK(groups.kind == Pattern::Kind::nm);
  CHECK(groups.n == 2);
  CHECK(groups.m == 8);
  CHECK(groups.density == 0.25);
  CHECK(Pattern::parse("0.30@row").str() == "0.3@row");
}

TEST_CASE("anything else is refused with the accepted forms") {
  for (const std::string text :
       {"",        "2",     "2:",    ":4",         "2:4:8",    "4:4",           "5:4",     "0:4",      "-1:4",
        "2:-4",    " 2:4",  "2:4 ",  "2.5:4",      "1:257",    "99999999999:4", "0.5",     "@row",     "0.5@",
        "0.5@col", "0@row", "1@row", "1.5@matrix", "-0.5@row", "nan@row",       "inf@row", "0.5@row ", "Dense"}) {
    CAPTURE(text);
    refuses("accepted forms: '2:4'", [&] { Pattern::parse(text); });
  }
}

TEST_CASE("kept counts entries of the scope") {
  CHECK(Pattern::parse("dense").kept(3, 5) == 15);
  CHECK(Pattern::parse("2:4").kept(3, 8) == 12);
  CHECK(Pattern::parse("0.5@row").kept(3, 5) == 9);  // 2.5 rounds away from zero, in each row
  CHECK(Pattern::parse("0.5@matrix").kept(3, 5) == 8);
  CHECK(Pattern::parse("0.1@matrix").kept(1000, 1000) == 100000);
}

TEST_CASE("check_shape names the layer, the numbers and the way out") {
  Pattern::parse("2:4").check_shape(1, 4, "q");
  refuses("q: d_in = 6 is not divisible by 4 (pattern 2:4)", [] { Pattern::parse("2:4").check_shape(3, 6, "q"); });
  refuses("q: a 0 x 4 weight is empty", [] { Pattern::parse("2:4").check_shape(0, 4, "q"); });
  refuses("q: a 4 x 0 weight is empty", [] { Pattern::parse("dense").check_shape(4, 0, "q"); });
  refuses("q: 0.1@row keeps none of 4 inputs", [] { Pattern::parse("0.1@row").check_shape(3, 4, "q"); });
  refuses("q: 0.01@matrix keeps none of 12 entries", [] { Pattern::parse("0.01@matrix").check_shape(3, 4, "q"); });
}

TEST_SUITE_END();
}  // namespace sparlow::test
