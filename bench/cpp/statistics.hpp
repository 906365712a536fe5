// Median and quartiles of repeated measurements.
#pragma once

#include <vector>

#include "json.hpp"

namespace sparlow::bench {

struct Spread {
  double fastest = 0, q1 = 0, median = 0, q3 = 0;
  int repeats = 0;
  Json json() const;  // in the unit of the values
};

// Quartiles by linear interpolation between order statistics. Throws Error(invalid_argument) without values.
Spread spread(std::vector<double> values);

// How many calls in a row make up at least `enough` seconds when one takes `seconds`: what a clock can resolve.
int calls_for(double seconds, double enough);

}  // namespace sparlow::bench
